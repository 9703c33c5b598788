// The front page: how many people are in which room, kept up to date.

import { addressOf, Connection } from "./connection.js";
import { showStatus } from "./status.js";

const list = document.getElementById("rooms");
const template = document.getElementById("room-template");

function show(rooms) {
  const focused = document.activeElement?.getAttribute("href");
  list.replaceChildren(...rooms.map(({ name, people }) => {
    const item = template.content.cloneNode(true);
    const link = item.querySelector("a");
    link.href = `/room/${encodeURIComponent(name)}`;
    item.querySelector(".room-name").textContent = name;
    item.querySelector(".room-people").textContent = people ? `${people} here` : "empty";
    item.querySelector(".room-people").dataset.people = people;
    return item;
  }));
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();  // nobody loses their place
}

new Connection(addressOf("/ws"), {
  onmessage: (message) => { if (message.type === "rooms") show(message.rooms); },
  onstate: showStatus,
});
