// The little sign in the corner that says how the connection is.

const TEXTS = { connecting: "Connecting…", open: "Connected", waiting: "Offline", closed: "Closed" };

export function showStatus(state) {
  const status = document.getElementById("status");
  if (status.dataset.state === state) return;
  status.dataset.state = state;
  status.querySelector(".status-text").textContent = TEXTS[state];
}
