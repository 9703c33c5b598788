/* floor: what the machine itself costs, without any WebSocket.
 *
 *   cc -O2 -o floor floor.c
 *   floor PORT echo         whatever bytes come in on a connection go back on it
 *   floor PORT broadcast    whatever bytes come in on a connection go to all connections, one send() after the other
 *
 * Both are what a server does at the very least: one epoll_wait for all that is ready, one recv, one send each. A WebSocket
 * server cannot be below it, so it is the yardstick that makes figures from different machines comparable.
 *
 * Sockets stay blocking: the load generator always reads, so a send that waits waits for it and for nothing else, and
 * nothing has to be remembered about a connection. Ends when it is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* A buffer for a whole message of 1 MiB: with less, more calls, and a server that collects messages would be below the floor. */
enum { EVENTS = 512, BUFFER = 1 << 20, BACKLOG = 4096 };

static int *members, member_count, member_room;
static char buffer[BUFFER];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (listener < 0) die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (listen(listener, BACKLOG)) die("listen");
    return listener;
}

static void join(int epoll, int listener) {
    int fd = accept(listener, NULL, NULL), on = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    if (member_count == member_room) {
        member_room = member_room ? 2 * member_room : 1024;
        members = realloc(members, member_room * sizeof *members);
        if (!members) die("realloc");
    }
    members[member_count++] = fd;
}

static void leave(int fd) {
    for (int i = 0; i < member_count; i++) {
        if (members[i] == fd) {
            members[i] = members[--member_count];
            break;
        }
    }
    close(fd);
}

static void send_all(int fd, ssize_t length) {
    for (ssize_t sent = 0; sent < length;) {
        ssize_t n = send(fd, buffer + sent, length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR) return; /* It has gone: the next recv on it says so. */
        if (n > 0) sent += n;
    }
}

int main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[2], "echo") && strcmp(argv[2], "broadcast"))) {
        fprintf(stderr, "usage: floor PORT echo|broadcast\n");
        return 2;
    }
    bool to_everyone = !strcmp(argv[2], "broadcast");
    raise_file_limit();
    int listener = listen_on(atoi(argv[1])), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[EVENTS];
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) die("epoll");
    for (;;) {
        int count = epoll_wait(epoll, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                join(epoll, listener);
                continue;
            }
            ssize_t length = recv(fd, buffer, sizeof buffer, 0);
            if (length <= 0) {
                leave(fd);
            } else if (to_everyone) {
                for (int k = 0; k < member_count; k++) send_all(members[k], length);
            } else {
                send_all(fd, length);
            }
        }
    }
}
