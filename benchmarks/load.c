/* load: drives a WebSocket server from one thread of C, so that the server is what is measured and not the client.
 *
 *   cc -O2 -o load load.c -lz
 *   load echo      PORT [options]   --connections each keep --in-flight messages on their way; what comes back is compared with
 *                                   what was sent and answered at once, all that one read brought in one write
 *   load handshake PORT [options]   --connections workers open a WebSocket, and close TCP as soon as it is open, again and again
 *   load idle      PORT [options]   opens --connections, and tells what they add to the server's resident memory
 *   load broadcast PORT [options]   --connections are opened, the first sends a message, everyone is to receive it, and again
 *
 *   --pid PID          the server, whose processor time and memory are read (with those of its children)
 *   --size BYTES       of a message, default 64
 *   --in-flight N      default 1
 *   --binary           binary messages; text otherwise
 *   --deflate          offers permessage-deflate as browsers do, and fails if the server declines. Messages are then JSON, no
 *                      two of the same within the 32 KiB that deflate looks back
 *   --idle N           so many connections more that are open and silent
 *   --rate N           echo: so many messages a second in all, at even intervals, whether the server keeps up or not; latencies
 *                      count from when a message was due. Otherwise the next message leaves when one has come back
 *   --raw              plain TCP without WebSocket, for the floor
 *   --path PATH        of the request, default /
 *   --seconds S        measured, default 2;  --warmup S before that, default 0.3;  --timeout S to open everything, default 60
 *
 * One line of JSON comes out. `cpu_us` is the server's processor time, user and system, of all threads and children, divided
 * by messages (echo), handshakes, or broadcasts (one message to everyone). `server_busy` and `load_busy` say what part of a
 * core each has used: where the load is near 1 and the server is not, the load was the bottleneck. `others_busy` says what the
 * rest of the machine was busy with meanwhile, in cores: near 0 is a quiet machine. `stalled` says how many messages have
 * no part in the latencies, since they were on their way while other programs had the core of the server or of the load. It
 * ends by itself in any case, with exit status 1 and `error` in the line if something did not go as it should.
 *
 * What it costs is kept small: frames are masked and compressed before they are needed, and compressed answers are inflated
 * and compared only for the first messages of each connection. A client may compress each message on its own whatever the
 * server has agreed to remember (RFC 7692, 7.1.1), so messages can be made once and sent by all.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

typedef uint64_t nanoseconds;

enum { SECOND = 1000000000 };
enum {
    EVENTS = 512,
    READ_BUFFER = 1 << 20,
    GATHER = 64 * 1024,        /* small frames are copied together up to here, and leave in one send */
    OPENING_AT_ONCE = 64,      /* below the backlog of all servers: asyncio's is 100 */
    RESPONSE_LIMIT = 4096,
    PORTS_OF_AN_ADDRESS = 20000,
    SOURCE_ADDRESSES = 200,
    MAX_PROCESSES = 64,
};
enum opcode { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum mode { ECHO, HANDSHAKE, IDLE, BROADCAST };
static const char *const MODES[] = {"echo", "handshake", "idle", "broadcast"};

/* What was asked for. */

static struct {
    enum mode mode;
    int port, pid, connections, idle;
    unsigned in_flight;
    size_t size;
    bool binary, deflate, raw;
    double rate, seconds, warmup, timeout;
    const char *path;
} options = {.connections = 50, .in_flight = 1, .size = 64, .seconds = 2, .warmup = 0.3, .timeout = 60, .path = "/"};

static nanoseconds now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (nanoseconds)t.tv_sec * SECOND + t.tv_nsec;
}

static nanoseconds from_seconds(double seconds) { return (nanoseconds)(seconds * SECOND); }

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\' || iscntrl((unsigned char)*p)) *p = ' ';
    }
    printf("{\"mode\": \"%s\", \"error\": \"%s\"}\n", MODES[options.mode], text);
    exit(1);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) fail("out of memory");
    return memory;
}

/* The server's processes: how much processor time and memory they have used. */

static int processes[MAX_PROCESSES], process_count;

static void find_processes(int pid) {
    if (process_count == MAX_PROCESSES) return;
    processes[process_count++] = pid;
    char name[128];
    snprintf(name, sizeof name, "/proc/%d/task", pid);
    DIR *tasks = opendir(name);
    if (!tasks) return;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (!isdigit((unsigned char)task->d_name[0])) continue;
        snprintf(name, sizeof name, "/proc/%d/task/%.20s/children", pid, task->d_name);
        FILE *children = fopen(name, "r");
        if (!children) continue;
        for (int child; fscanf(children, "%d", &child) == 1;) find_processes(child);
        fclose(children);
    }
    closedir(tasks);
}

/* User and system time from /proc/PID/stat: ticks of 10 ms. */
static void read_ticks(int pid, unsigned long *user, unsigned long *system) {
    char name[64], line[1024];
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file) return;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    /* The name of the program is in parentheses and may hold anything: the fields are counted from its end. */
    char *field = strrchr(line, ')');
    unsigned long u, s;
    if (field && sscanf(field + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) == 2) {
        *user += u;
        *system += s;
    }
}

/* What all cores have spent on anything but idling, in ticks. */
static unsigned long read_busy_ticks(void) {
    unsigned long user = 0, nice = 0, system = 0, idle, wait, interrupts = 0, soft = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file) return 0;
    if (fscanf(file, "cpu %lu %lu %lu %lu %lu %lu %lu", &user, &nice, &system, &idle, &wait, &interrupts, &soft) != 7)
        user = nice = system = interrupts = soft = 0;
    fclose(file);
    return user + nice + system + interrupts + soft;
}

struct usage {
    nanoseconds at, server, load;
    unsigned long user, system, everything;
};

static struct usage read_usage(void) {
    struct usage usage = {0};
    for (int i = 0; i < process_count; i++) {
        unsigned long user = 0, system = 0;
        clockid_t clock;
        struct timespec t;
        read_ticks(processes[i], &user, &system);
        usage.user += user;
        usage.system += system;
        /* The same account by the nanosecond, where the kernel gives it. */
        if (clock_getcpuclockid(processes[i], &clock) == 0 && clock_gettime(clock, &t) == 0)
            usage.server += (nanoseconds)t.tv_sec * SECOND + t.tv_nsec;
        else
            usage.server += (nanoseconds)(user + system) * (SECOND / sysconf(_SC_CLK_TCK));
    }
    struct timespec mine;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mine);
    usage.load = (nanoseconds)mine.tv_sec * SECOND + mine.tv_nsec;
    usage.everything = read_busy_ticks();
    usage.at = now();
    return usage;
}

static long resident_kib(void) {
    long sum = 0;
    for (int i = 0; i < process_count; i++) {
        char name[64], line[256];
        snprintf(name, sizeof name, "/proc/%d/status", processes[i]);
        FILE *file = fopen(name, "r");
        if (!file) continue;
        for (long kib; fgets(line, sizeof line, file);) {
            if (sscanf(line, "VmRSS: %ld", &kib) == 1) {
                sum += kib;
                break;
            }
        }
        fclose(file);
    }
    return sum;
}

/* Stalls: for how long the server or the load could have run, and did not because their core was taken. What some thread of the
 * kernel does once a second would otherwise make up the slowest messages of all servers, each as often as it happens to. */

enum { STALL = 2000000, LOOK_EVERY = 10 * STALL };
static int schedules[2] = {-1, -1};
static nanoseconds stalled_until;
static uint64_t stalled;

static void watch_stalls(void) {
    cpu_set_t ours, servers, both;
    if (!options.pid || sched_getaffinity(0, sizeof ours, &ours) || sched_getaffinity(options.pid, sizeof servers, &servers))
        return;
    CPU_AND(&both, &ours, &servers);
    if (CPU_COUNT(&both)) return; /* They may be in each other's way, which is no stall. */
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/schedstat", options.pid);
    schedules[0] = open(name, O_RDONLY | O_CLOEXEC);
    schedules[1] = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
}

/* In the server its first thread counts: others may have to wait for that one. */
static nanoseconds read_waits(void) {
    nanoseconds sum = 0;
    for (int i = 0; i < 2; i++) {
        char line[128];
        unsigned long waits;
        ssize_t length = pread(schedules[i], line, sizeof line - 1, 0);
        if (length <= 0) continue;
        line[length] = 0;
        if (sscanf(line, "%*u %lu", &waits) == 1) sum += waits;
    }
    return sum;
}

/* Called at each answer: long without one is what a stall looks like from here. */
static void notice_stall(nanoseconds at) {
    static nanoseconds answered_at, looked_at, waits;
    bool silent = at - answered_at > STALL;
    answered_at = at;
    if (!silent && at - looked_at < LOOK_EVERY) return;
    nanoseconds before = waits;
    waits = read_waits();
    looked_at = at;
    if (silent && waits - before > STALL / 2) stalled_until = at;
}

/* Latencies: a histogram, so that nothing has to be kept for each message. 64 buckets for each power of two: within 1.6 %. */

enum { STEPS = 64, BUCKETS = 64 * STEPS };
static uint64_t histogram[BUCKETS], observations;
static nanoseconds longest;

static void observe(nanoseconds sent, nanoseconds at) {
    if (sent < stalled_until) {
        stalled++;
        return;
    }
    nanoseconds latency = at - sent;
    int power = latency < STEPS ? 0 : 63 - __builtin_clzll(latency) - 5;
    histogram[power * STEPS + (latency >> power)]++;
    observations++;
    if (latency > longest) longest = latency;
}

static double percentile_us(double part) {
    uint64_t wanted = (uint64_t)(observations * part), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) return (double)((nanoseconds)(i % STEPS) << (i / STEPS)) / 1000;
    }
    return (double)longest / 1000;
}

/* The messages, made once. */

struct message {
    uint8_t *payload, *frame; /* the frame is what goes over the wire: of a raw message the payload itself */
    size_t frame_length;
};

static struct message *messages;
static unsigned message_count;
static const uint8_t MASKING_KEY[4] = {0x5a, 0x13, 0xc7, 0x9e};

static void write_letters(uint8_t *payload, unsigned seed) {
    for (size_t i = 0; i < options.size; i++) payload[i] = 'a' + (i + seed) % 26;
}

static unsigned random_number(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* An array of records, as an application would send them; spaces before its end make up the size. */
static void write_json(uint8_t *payload, unsigned seed) {
    static const char *const WORDS[] = {"alpha", "bravo", "charlie", "delta", "echo",   "foxtrot", "golf", "hotel",
                                        "india", "juliet", "kilo",   "lima",  "mike",   "oscar",   "papa", "quebec",
                                        "romeo", "sierra", "tango",  "victor", "whiskey", "yankee", "zulu", "november"};
    const unsigned words = sizeof WORDS / sizeof *WORDS;
    unsigned state = seed * 7919 + 17;
    size_t at = 0;
    char record[256];
    while (at < options.size) {
        unsigned id = random_number(&state), price = random_number(&state) % 100000;
        const char *first = WORDS[random_number(&state) % words], *second = WORDS[random_number(&state) % words];
        int length = snprintf(record, sizeof record,
                              "%s{\"id\": %u, \"name\": \"%s %s\", \"price\": %u.%02u, \"stock\": %u, \"active\": %s}",
                              at ? ", " : "[", id, first, second, price / 100, price % 100,
                              random_number(&state) % 500, random_number(&state) % 2 ? "true" : "false");
        if (at + length + 1 > options.size) break;
        memcpy(payload + at, record, length);
        at += length;
    }
    memset(payload + at, ' ', options.size - at);
    if (options.size) payload[options.size - 1] = ']';
}

static size_t compress_payload(const uint8_t *payload, uint8_t **compressed, int window_bits) {
    z_stream stream = {0};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -window_bits, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        fail("zlib does not compress with a window of %d bits", window_bits);
    size_t room = deflateBound(&stream, options.size) + 16;
    *compressed = allocate(room, 1);
    stream.next_in = (uint8_t *)payload;
    stream.avail_in = options.size;
    stream.next_out = *compressed;
    stream.avail_out = room;
    deflate(&stream, Z_SYNC_FLUSH);
    size_t length = room - stream.avail_out - 4; /* RFC 7692, 7.2.1: the last four octets are left out. */
    deflateEnd(&stream);
    return length;
}

static void make_frame(struct message *message, const uint8_t *payload, size_t length, uint8_t first_byte) {
    uint8_t *frame = message->frame = allocate(length + 14, 1);
    size_t at = 0;
    frame[at++] = first_byte;
    if (length < 126) {
        frame[at++] = 0x80 | length;
    } else {
        int octets = length < 65536 ? 2 : 8;
        frame[at++] = 0x80 | (octets == 2 ? 126 : 127);
        for (int i = octets; i-- > 0;) frame[at++] = (uint64_t)length >> (8 * i);
    }
    memcpy(frame + at, MASKING_KEY, 4);
    at += 4;
    for (size_t i = 0; i < length; i++) frame[at + i] = payload[i] ^ MASKING_KEY[i & 3];
    message->frame_length = at + length;
}

static void make_messages(int window_bits) {
    /* Twice the window's 32 KiB of different text before it repeats: else deflate would find the whole message there. */
    message_count = options.deflate ? 65536 / options.size + 2 : 1;
    messages = allocate(message_count, sizeof *messages);
    for (unsigned i = 0; i < message_count; i++) {
        struct message *message = &messages[i];
        message->payload = allocate(options.size, 1);
        (options.deflate ? write_json : write_letters)(message->payload, i);
        uint8_t first_byte = 0x80 | (options.binary ? BINARY : TEXT);
        if (options.raw) {
            message->frame = message->payload;
            message->frame_length = options.size;
        } else if (options.deflate) {
            uint8_t *compressed;
            size_t length = compress_payload(message->payload, &compressed, window_bits);
            make_frame(message, compressed, length, first_byte | 0x40);
            free(compressed);
        } else {
            make_frame(message, message->payload, options.size, first_byte);
        }
    }
}

/* Connections. */

enum state { CLOSED, CONNECTING, UPGRADING, OPEN };

struct connection {
    int fd;
    enum state state;
    bool wants_to_write; /* as epoll knows it */
    /* Outgoing: `due` messages are to be written, of which the first, `next_out`, is written up to `out_at`. */
    unsigned due, next_out;
    size_t out_at;
    uint8_t *pong; /* a whole frame with its length before it, to be written between two messages */
    nanoseconds *sent;
    unsigned sent_count, seen_count;
    /* Incoming: of the frame at hand `payload_left` is still to come; `expected_at` counts in the message `next_in`. */
    uint8_t head[10], head_length, opcode, control[125], control_length;
    bool final, compressed;
    uint64_t payload_left;
    unsigned next_in;
    size_t expected_at;
    z_stream *inflating; /* until enough answers have been compared */
    unsigned compared;
    char *response;
    size_t response_length;
};

static struct connection *connections;
static int connection_count, opening, open_count;
static int poller, timer = -1;
static uint8_t read_buffer[READ_BUFFER], gather_buffer[GATHER];
static char request[2048];
static size_t request_length;
static bool window_known, server_forgets;

/* What has happened since it was last set to zero. */
static uint64_t messages_in, wire_bytes_in, handshakes, late;
static bool sending; /* answer what comes in with the next message */

static void make_request(void) {
    request_length = snprintf(
        request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
        options.path, options.port,
        options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    if (request_length >= sizeof request) fail("the path is too long");
}

static void watch(struct connection *c, int operation, bool writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_to_write = writing;
    if (epoll_ctl(poller, operation, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static void start_opening(struct connection *c) {
    static unsigned turn;
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (options.mode == HANDSHAKE || connection_count > PORTS_OF_AN_ADDRESS) {
        /* One source address has some 28,000 ports, and those of closed connections rest for a minute. */
        struct sockaddr_in source = {.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % SOURCE_ADDRESSES)};
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) fail("bind: %s", strerror(errno));
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(options.port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    c->state = CONNECTING;
    opening++;
    watch(c, EPOLL_CTL_ADD, true);
}

static void close_connection(struct connection *c) {
    if (c->state == OPEN) open_count--;
    if (c->state == CONNECTING || c->state == UPGRADING) opening--;
    close(c->fd);
    nanoseconds *sent = c->sent;
    free(c->pong);
    free(c->response);
    if (c->inflating) {
        inflateEnd(c->inflating);
        free(c->inflating);
    }
    *c = (struct connection){.fd = -1, .sent = sent};
}

/* Returns what was written: 0 if the socket takes no more at the moment. */
static size_t write_some(struct connection *c, const void *data, size_t length) {
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
    if (n >= 0) return n;
    if (errno != EAGAIN) fail("send: %s", strerror(errno));
    return 0;
}

/* The bytes that are due next, as many as are worth one send. */
static const uint8_t *due_bytes(const struct connection *c, size_t *length) {
    const struct message *message = &messages[c->next_out];
    *length = message->frame_length - c->out_at;
    if (c->due == 1 || *length >= GATHER / 2) return message->frame + c->out_at;
    memcpy(gather_buffer, message->frame + c->out_at, *length);
    unsigned next = c->next_out;
    for (unsigned i = 1; i < c->due; i++) {
        next = (next + 1) % message_count;
        message = &messages[next];
        if (*length + message->frame_length > GATHER) break;
        memcpy(gather_buffer + *length, message->frame, message->frame_length);
        *length += message->frame_length;
    }
    return gather_buffer;
}

static void advance(struct connection *c, size_t written) {
    while (written) {
        size_t left = messages[c->next_out].frame_length - c->out_at;
        if (written < left) {
            c->out_at += written;
            return;
        }
        written -= left;
        c->out_at = 0;
        c->next_out = (c->next_out + 1) % message_count;
        c->due--;
    }
}

static void flush_connection(struct connection *c) {
    bool full = false;
    while (!full && (c->due || c->pong)) {
        if (c->pong && !c->out_at) {
            size_t written = write_some(c, c->pong + 1, c->pong[0]);
            if (written && written < c->pong[0]) fail("a pong was written in part");
            full = !written;
            if (written) {
                free(c->pong);
                c->pong = NULL;
            }
            continue;
        }
        size_t length, written;
        const uint8_t *data = due_bytes(c, &length);
        written = write_some(c, data, length);
        advance(c, written);
        full = written < length;
    }
    if (full != c->wants_to_write) watch(c, EPOLL_CTL_MOD, full);
}

static void send_messages(struct connection *c, unsigned count, nanoseconds at) {
    for (unsigned i = 0; i < count; i++) c->sent[c->sent_count++ % options.in_flight] = at;
    c->due += count;
    if (!c->wants_to_write) flush_connection(c);
}

/* The opening handshake. */

static void opened(struct connection *c) {
    opening--;
    open_count++;
    handshakes++;
    c->state = OPEN;
    free(c->response);
    c->response = NULL;
    if (options.mode == HANDSHAKE) {
        close_connection(c);
        start_opening(c);
        return;
    }
    if (options.deflate) {
        c->inflating = allocate(1, sizeof *c->inflating);
        if (inflateInit2(c->inflating, -15) != Z_OK) fail("zlib does not inflate");
    }
    if (c->wants_to_write) watch(c, EPOLL_CTL_MOD, false);
}

static void check_extensions(const char *response) {
    const char *agreed = strcasestr(response, "\r\nSec-WebSocket-Extensions:");
    if (!options.deflate) {
        if (agreed) fail("the server uses an extension that was not offered");
        return;
    }
    if (!agreed || !strcasestr(agreed, "permessage-deflate")) fail("the server declines permessage-deflate");
    if (window_known) return;
    const char *bits = strcasestr(agreed, "client_max_window_bits=");
    server_forgets = strcasestr(agreed, "server_no_context_takeover");
    window_known = true;
    make_messages(bits ? atoi(bits + strlen("client_max_window_bits=") + (strchr(bits, '=')[1] == '"')) : 15);
}

/* Returns how much of `data` belongs to the response; what follows are frames. */
static size_t read_response(struct connection *c, const uint8_t *data, size_t length) {
    if (!c->response) c->response = allocate(RESPONSE_LIMIT + 1, 1);
    size_t before = c->response_length, taken = length;
    if (before + taken > RESPONSE_LIMIT) taken = RESPONSE_LIMIT - before;
    memcpy(c->response + before, data, taken);
    c->response_length = before + taken;
    c->response[c->response_length] = 0;
    char *end = strstr(c->response, "\r\n\r\n");
    if (!end) {
        if (c->response_length == RESPONSE_LIMIT) fail("the response to the handshake does not end");
        return length;
    }
    end[2] = 0; /* The last field keeps the end of its line. */
    size_t consumed = end + 4 - c->response - before;
    if (strncmp(c->response, "HTTP/1.1 101", 12)) fail("no 101 but %.60s", c->response);
    if (!strcasestr(c->response, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) fail("the Sec-WebSocket-Accept is wrong");
    check_extensions(c->response);
    opened(c);
    return consumed;
}

/* What comes back. */

static void compare(struct connection *c, const uint8_t *data, size_t length) {
    const struct message *message = &messages[c->next_in];
    if (c->expected_at + length > options.size || memcmp(data, message->payload + c->expected_at, length))
        fail("what came back is not what was sent");
    c->expected_at += length;
}

static void inflate_and_compare(struct connection *c, const uint8_t *data, size_t length) {
    uint8_t plain[16384];
    z_stream *stream = c->inflating;
    stream->next_in = (uint8_t *)data;
    stream->avail_in = length;
    do {
        stream->next_out = plain;
        stream->avail_out = sizeof plain;
        int result = inflate(stream, Z_SYNC_FLUSH);
        if (result != Z_OK && result != Z_BUF_ERROR) fail("what came back cannot be inflated");
        compare(c, plain, sizeof plain - stream->avail_out);
    } while (!stream->avail_out);
}

static void payload_arrived(struct connection *c, const uint8_t *data, size_t length) {
    if (c->opcode >= CLOSE) {
        memcpy(c->control + c->control_length, data, length);
        c->control_length += length;
    } else if (!c->compressed) {
        compare(c, data, length);
    } else if (c->inflating) {
        inflate_and_compare(c, data, length);
    }
}

static void control_arrived(struct connection *c) {
    if (c->opcode == CLOSE) {
        int code = c->control_length >= 2 ? c->control[0] << 8 | c->control[1] : 1005;
        fail("the server closed a connection with %d", code);
    }
    if (c->opcode == PING && !c->pong) {
        uint8_t *pong = c->pong = allocate(1 + 6 + c->control_length, 1);
        *pong++ = 6 + c->control_length;
        *pong++ = 0x80 | PONG;
        *pong++ = 0x80 | c->control_length;
        memcpy(pong, MASKING_KEY, 4);
        for (int i = 0; i < c->control_length; i++) pong[4 + i] = c->control[i] ^ MASKING_KEY[i & 3];
        if (!c->wants_to_write) flush_connection(c);
    }
}

static void message_arrived(struct connection *c) {
    static const uint8_t TAIL[] = {0, 0, 0xff, 0xff};
    if (c->inflating && c->compressed) {
        inflate_and_compare(c, TAIL, sizeof TAIL);
        if (server_forgets) inflateReset(c->inflating);
    }
    if ((!c->compressed || c->inflating) && c->expected_at != options.size) fail("a message came back too short");
    /* Twice around, so that what the server remembers of earlier messages has been seen to work. */
    if (c->inflating && ++c->compared == 2 * message_count) {
        inflateEnd(c->inflating);
        free(c->inflating);
        c->inflating = NULL;
    }
    c->next_in = (c->next_in + 1) % message_count;
    c->expected_at = 0;
    messages_in++;
}

static void head_arrived(struct connection *c) {
    uint8_t length = c->head[1] & 127, octets = length < 126 ? 0 : length == 126 ? 2 : 8;
    c->payload_left = octets ? 0 : length;
    for (int i = 0; i < octets; i++) c->payload_left = c->payload_left << 8 | c->head[2 + i];
    c->head_length = 0;
    c->opcode = c->head[0] & 15;
    c->control_length = 0;
    if (c->opcode >= CLOSE) {
        if (c->payload_left > 125) fail("a control frame is too long");
        return;
    }
    c->final = c->head[0] & 0x80;
    if (c->opcode != CONTINUATION) {
        c->compressed = c->head[0] & 0x40;
        if (c->opcode != (options.binary ? BINARY : TEXT)) fail("text came back as binary, or binary as text");
    }
}

/* Returns how many messages have been completed. */
static unsigned read_frames(struct connection *c, const uint8_t *data, size_t length) {
    unsigned completed = 0;
    size_t at = 0;
    wire_bytes_in += length;
    for (;;) {
        if (c->payload_left) {
            size_t part = length - at < c->payload_left ? length - at : c->payload_left;
            if (!part) return completed;
            payload_arrived(c, data + at, part);
            at += part;
            c->payload_left -= part;
        } else {
            uint8_t wanted = 2;
            while (at < length && c->head_length < wanted) {
                c->head[c->head_length++] = data[at++];
                if (c->head_length == 2) wanted = (c->head[1] & 127) < 126 ? 2 : (c->head[1] & 127) == 126 ? 4 : 10;
                else if (c->head_length > 2) wanted = (c->head[1] & 127) == 126 ? 4 : 10;
            }
            if (c->head_length < 2 || c->head_length < wanted) return completed;
            head_arrived(c);
        }
        if (c->payload_left) continue;
        if (c->opcode >= CLOSE) {
            control_arrived(c);
        } else if (c->final) {
            message_arrived(c);
            completed++;
        }
    }
}

static unsigned read_raw(struct connection *c, const uint8_t *data, size_t length) {
    unsigned completed = 0;
    wire_bytes_in += length;
    while (length) {
        size_t left = options.size - c->expected_at, part = length < left ? length : left;
        compare(c, data, part);
        data += part;
        length -= part;
        if (c->expected_at == options.size) {
            message_arrived(c);
            completed++;
        }
    }
    return completed;
}

static void answer(struct connection *c, unsigned completed) {
    nanoseconds at = now();
    notice_stall(at);
    if (options.mode == BROADCAST) {
        /* Everyone has the same count of messages: when all have this one, the next may go. */
        static unsigned arrived;
        arrived += completed;
        if (arrived < (unsigned)connection_count) return;
        arrived -= connection_count;
        observe(connections[0].sent[0], at);
        if (sending) send_messages(&connections[0], 1, at);
        return;
    }
    for (unsigned i = 0; i < completed; i++) observe(c->sent[c->seen_count++ % options.in_flight], at);
    if (sending && !options.rate) send_messages(c, completed, at);
}

static void readable(struct connection *c) {
    ssize_t length = recv(c->fd, read_buffer, sizeof read_buffer, 0);
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0) fail("the server closed TCP: %s", length ? strerror(errno) : "end of stream");
    size_t at = 0;
    if (c->state == UPGRADING) {
        at = read_response(c, read_buffer, length);
        if (c->state != OPEN) return;
    }
    unsigned completed = (options.raw ? read_raw : read_frames)(c, read_buffer + at, length - at);
    if (completed) answer(c, completed);
}

static void writable(struct connection *c) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) fail("connect: %s", strerror(error));
        c->state = UPGRADING;
        if (options.raw) {
            opened(c);
            return;
        }
        if (write_some(c, request, request_length) != request_length) fail("the request was written in part");
        watch(c, EPOLL_CTL_MOD, false);
    } else if (c->state == OPEN) {
        flush_connection(c);
    }
}

/* Messages at a given rate. */

static nanoseconds schedule_began;
static uint64_t scheduled;

static nanoseconds due_at(uint64_t number) { return schedule_began + (nanoseconds)(number * (SECOND / options.rate)); }

static void send_scheduled(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) fail("timer: %s", strerror(errno));
    if (!sending) return;
    for (nanoseconds at = now(); due_at(scheduled) <= at; scheduled++) {
        struct connection *c = &connections[scheduled % options.connections];
        if (c->sent_count - c->seen_count == options.in_flight) {
            late++; /* So far behind that there is no room to note when it was sent: it counts as lost. */
            continue;
        }
        send_messages(c, 1, due_at(scheduled));
    }
    nanoseconds next = due_at(scheduled);
    struct itimerspec when = {.it_value = {.tv_sec = next / SECOND, .tv_nsec = next % SECOND}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void start_schedule(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event)) fail("timer: %s", strerror(errno));
    schedule_began = now();
    send_scheduled();
}

/* The loop. */

static void turn(int milliseconds) {
    struct epoll_event ready[EVENTS];
    int count = epoll_wait(poller, ready, EVENTS, milliseconds);
    for (int i = 0; i < count; i++) {
        struct connection *c = ready[i].data.ptr;
        if (!c) {
            send_scheduled();
            continue;
        }
        int fd = c->fd;
        if (ready[i].events & (EPOLLOUT | EPOLLERR)) writable(c);
        if (c->fd == fd && ready[i].events & (EPOLLIN | EPOLLHUP) && c->state != CONNECTING) readable(c);
    }
}

static void run_for(double seconds) {
    for (nanoseconds end = now() + from_seconds(seconds); now() < end;) turn(10);
}

static void open_connections(int count) {
    nanoseconds deadline = now() + from_seconds(options.timeout);
    for (int next = 0; open_count < count;) {
        while (next < count && opening < OPENING_AT_ONCE) start_opening(&connections[next++]);
        if (now() > deadline) fail("only %d of %d connections opened in %.0f s", open_count, count, options.timeout);
        turn(50);
    }
}

static void exchange_one_message(int count) {
    nanoseconds deadline = now() + from_seconds(options.timeout);
    messages_in = 0;
    for (int i = 0; i < count; i++) {
        send_messages(&connections[i], 1, now());
        if (i % OPENING_AT_ONCE == 0) turn(0);
    }
    while (messages_in < (uint64_t)count) {
        if (now() > deadline) fail("only %lu of %d messages came back", (unsigned long)messages_in, count);
        turn(50);
    }
}

static void forget_counts(void) {
    messages_in = wire_bytes_in = handshakes = late = stalled = observations = longest = 0;
    memset(histogram, 0, sizeof histogram);
}

/* The four modes. */

static void print_common(const struct usage *from, const struct usage *to, double units) {
    double seconds = (double)(to->at - from->at) / SECOND;
    double ticks = (to->user - from->user) + (to->system - from->system);
    printf("{\"mode\": \"%s\", \"connections\": %d, \"idle\": %d, \"in_flight\": %u, \"size\": %zu, \"seconds\": %.3f, ",
           MODES[options.mode], options.connections, options.idle, options.in_flight, options.size, seconds);
    printf("\"count\": %lu, \"per_second\": %.1f, ", (unsigned long)units, units / seconds);
    if (options.pid) {
        printf("\"cpu_us\": %.4f, ", units ? (to->server - from->server) / 1000.0 / units : 0);
        printf("\"system_share\": %.3f, ", ticks ? (to->system - from->system) / ticks : 0);
        printf("\"server_busy\": %.3f, \"resident_kib\": %ld, ", (to->server - from->server) / 1e9 / seconds, resident_kib());
    }
    if (observations) {
        printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ", percentile_us(0.5),
               percentile_us(0.99), percentile_us(0.999), (double)longest / 1000);
    }
    if (observations || stalled) printf("\"stalled\": %lu, ", (unsigned long)stalled);
    if (messages_in) printf("\"wire_bytes\": %.1f, ", (double)wire_bytes_in / messages_in);
    if (options.rate) printf("\"rate\": %.0f, \"lost\": %lu, ", options.rate, (unsigned long)late);
    double ours = ((to->load - from->load) + (to->server - from->server)) / 1e9;
    double others = (double)(to->everything - from->everything) / sysconf(_SC_CLK_TCK) - ours;
    printf("\"others_busy\": %.2f, ", others > 0 ? others / seconds : 0);
    printf("\"load_busy\": %.3f}\n", (to->load - from->load) / 1e9 / seconds);
}

static void measure_interval(const uint64_t *counter, int for_each) {
    run_for(options.warmup);
    forget_counts();
    struct usage from = read_usage();
    run_for(options.seconds);
    struct usage to = read_usage();
    if (!*counter) fail("nothing came back");
    print_common(&from, &to, (double)*counter / for_each);
}

static void echo(void) {
    open_connections(connection_count);
    sending = true;
    if (options.rate) {
        start_schedule();
    } else {
        for (int i = 0; i < options.connections; i++) send_messages(&connections[i], options.in_flight, now());
    }
    measure_interval(&messages_in, 1);
}

static void broadcast(void) {
    open_connections(connection_count);
    /* The server may answer a handshake, or have the kernel accept TCP, before it counts the connection among all. */
    run_for(0.5);
    sending = true;
    send_messages(&connections[0], 1, now());
    measure_interval(&messages_in, connection_count); /* the one that is under way at either end counts in part */
}

static void handshake(void) {
    for (int i = 0; i < connection_count; i++) start_opening(&connections[i]);
    measure_interval(&handshakes, 1);
}

static void idle(void) {
    /* What the server loads and keeps at its first connections is not theirs. */
    int first = connection_count < 20 ? connection_count : 20;
    open_connections(first);
    exchange_one_message(first);
    for (int i = 0; i < first; i++) close_connection(&connections[i]);
    run_for(0.3);
    long before = resident_kib();
    open_connections(connection_count);
    run_for(0.5);
    long silent = resident_kib();
    exchange_one_message(connection_count);
    run_for(0.5);
    long after = resident_kib();
    printf("{\"mode\": \"idle\", \"connections\": %d, \"before_kib\": %ld, \"resident_kib\": %ld, ", connection_count, before,
           silent);
    printf("\"kib\": %.3f, \"kib_after_a_message\": %.3f}\n", (double)(silent - before) / connection_count,
           (double)(after - before) / connection_count);
}

static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < (rlim_t)connection_count + 16)
        fail("the system allows %lu open files, too few for %d connections", (unsigned long)limit.rlim_max, connection_count);
}

static void read_options(int argc, char **argv) {
    enum { PID = 1, CONNECTIONS, IN_FLIGHT, SIZE, BINARY_, DEFLATE, IDLE_, RATE, RAW, PATH, SECONDS, WARMUP, TIMEOUT };
    static const struct option NAMES[] = {
        {"pid", 1, 0, PID},       {"connections", 1, 0, CONNECTIONS}, {"in-flight", 1, 0, IN_FLIGHT}, {"size", 1, 0, SIZE},
        {"binary", 0, 0, BINARY_}, {"deflate", 0, 0, DEFLATE},         {"idle", 1, 0, IDLE_},          {"rate", 1, 0, RATE},
        {"raw", 0, 0, RAW},       {"path", 1, 0, PATH},               {"seconds", 1, 0, SECONDS},     {"warmup", 1, 0, WARMUP},
        {"timeout", 1, 0, TIMEOUT}, {0}};
    for (int option; (option = getopt_long(argc, argv, "", NAMES, NULL)) != -1;) {
        switch (option) {
        case PID: options.pid = atoi(optarg); break;
        case CONNECTIONS: options.connections = atoi(optarg); break;
        case IN_FLIGHT: options.in_flight = atoi(optarg); break;
        case SIZE: options.size = strtoul(optarg, NULL, 10); break;
        case BINARY_: options.binary = true; break;
        case DEFLATE: options.deflate = true; break;
        case IDLE_: options.idle = atoi(optarg); break;
        case RATE: options.rate = atof(optarg); break;
        case RAW: options.raw = true; break;
        case PATH: options.path = optarg; break;
        case SECONDS: options.seconds = atof(optarg); break;
        case WARMUP: options.warmup = atof(optarg); break;
        case TIMEOUT: options.timeout = atof(optarg); break;
        default: exit(2);
        }
    }
    int mode = -1;
    for (int i = 0; optind < argc && i < (int)(sizeof MODES / sizeof *MODES); i++) {
        if (!strcmp(argv[optind], MODES[i])) mode = i;
    }
    if (mode < 0 || optind + 2 != argc || options.connections < 1 || options.idle < 0 || options.in_flight < 1 ||
        options.size < 1 || (options.raw && options.deflate)) {
        fprintf(stderr, "usage: load echo|handshake|idle|broadcast PORT [options]; the head of load.c tells which\n");
        exit(2);
    }
    options.mode = mode;
    options.port = atoi(argv[optind + 1]);
    if (mode == BROADCAST) options.in_flight = 1;
    /* Paced messages may pile up: there is room to note when each was due. */
    if (options.rate && options.in_flight < 256) options.in_flight = 256;
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    /* Whatever happens: opening, and in the idle mode two exchanges, may take `timeout` each. */
    alarm((unsigned)(options.seconds + options.warmup + 4 * options.timeout) + 5);
    connection_count = options.connections + options.idle;
    connections = allocate(connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++) connections[i].fd = -1;
    for (int i = 0; i < options.connections; i++) connections[i].sent = allocate(options.in_flight, sizeof(nanoseconds));
    raise_file_limit();
    if (options.pid) find_processes(options.pid);
    watch_stalls();
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll: %s", strerror(errno));
    make_request();
    if (!options.deflate) make_messages(0);
    static void (*const RUN[])(void) = {echo, handshake, idle, broadcast};
    RUN[options.mode]();
    return 0;
}
