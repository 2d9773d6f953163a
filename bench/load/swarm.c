/* A swarm of subscribers that is too cheap to be what is measured: one thread, one buffer, no parsing.
 *
 *   swarm PORT ws|sse PATH COUNT CHANNELS READY [POSITION]
 *
 * Opens COUNT connections to 127.0.0.1:PORT. CHANNELS is a comma-separated list; in it %d is the client's number from
 * 1 on, and a channel that ends with *K stands for K channels of the client's own. A connection is ready when it has
 * sent the bytes READY. Prints "ready SECONDS" once all are.
 *
 * Every change in a message bears a mark, "@t" and 16 digits: microseconds since the epoch. Marks are counted, and the
 * time since is kept in a histogram (64 buckets to the octave: within 1.6 %). Commands on stdin:
 *   reset      forget what was counted             (answer: ok)
 *   report     one line of JSON
 *   until N    answer "reached SECONDS" when N changes have come since the reset, seconds since it
 * End of input ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TAIL = 64, MARK = 18, BUFFER = 1 << 18, BEGINNING = 200, BUCKETS = 64 * 48, REQUEST = 1 << 16, PER_ADDRESS = 16000 };

typedef struct {
    int fd, kept;
    unsigned char asked, ready;
    uint64_t changes;
    char tail[TAIL];
} Client;

static Client *clients;
static int count, begun, ready_count, closed, port, events, websocket;
static const char *path, *channels, *expected, *position;
static uint64_t changes, reads, bytes, histogram[BUCKETS], worst, awaited;
static double since;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static size_t put_channels(char *out, size_t room, int number, const char *before, const char *between, const char *after) {
    char list[4096], *save = NULL;
    size_t size = 0;
    snprintf(list, sizeof list, "%s", channels);
    for (char *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        char *star = strchr(name, '*');
        int own = star ? atoi(star + 1) : 1;
        if (star) *star = 0;
        for (int k = 0; k < own; k++) {
            size += snprintf(out + size, room - size, "%s%s", size ? between : "", before);
            size += snprintf(out + size, room - size, name, number * own + k + 1);
            size += snprintf(out + size, room - size, "%s", after);
            if (size > room - 256) die("too many channels");
        }
    }
    return size;
}

static void send_all(Client *c, const char *data, size_t size) {
    if (send(c->fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) die("send");
}

static void ask(Client *c, int number) {
    static char out[REQUEST];
    size_t size = snprintf(out, REQUEST, "GET %s", path);
    if (!websocket) {
        size += snprintf(out + size, REQUEST - size, "?");
        size += put_channels(out + size, REQUEST - size, number, "channel=", "&", "");
        if (position) size += snprintf(out + size, REQUEST - size, "&position=%s", position);
    }
    size += snprintf(out + size, REQUEST - size, " HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", port);
    size += snprintf(out + size, REQUEST - size, "%s", websocket
        ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        : "Accept: text/event-stream\r\n\r\n");
    send_all(c, out, size);
}

static void subscribe(Client *c, int number) {
    static char json[REQUEST], out[REQUEST + 16];
    if (!*channels) return;
    size_t size = snprintf(json, REQUEST, "{\"type\":\"subscribe\",\"id\":1,");
    if (position) size += snprintf(json + size, REQUEST - size, "\"position\":\"%s\",", position);
    size += snprintf(json + size, REQUEST - size, "\"channels\":[");
    size += put_channels(json + size, REQUEST - size, number, "\"", ",", "\"");
    size += snprintf(json + size, REQUEST - size, "]}");
    /* Masked, as a client's frames must be, with the mask 0. */
    size_t head = 2;
    out[0] = (char)0x81;
    if (size < 126) out[1] = (char)(0x80 | size);
    else out[1] = (char)(0x80 | 126), out[2] = (char)(size >> 8), out[3] = (char)size, head = 4;
    memset(out + head, 0, 4);
    memcpy(out + head + 4, json, size);
    send_all(c, out, head + 4 + size);
}

static void begin(int i) {
    Client *c = &clients[i];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + i / PER_ADDRESS)};
    int on = 1;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) die("socket");
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = i};
    if (epoll_ctl(events, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
}

static void note(uint64_t delay) {
    int octave = delay < 64 ? 6 : 63 - __builtin_clzll(delay), shift = octave - 6;
    uint64_t bucket = delay < 64 ? delay : (uint64_t)(shift + 1) * 64 + (delay >> shift) - 64;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (delay > worst) worst = delay;
}

static uint64_t bucket_value(int bucket) {
    if (bucket < 128) return bucket;
    int shift = bucket / 64 - 1;
    return ((uint64_t)(bucket % 64 + 64) << shift) + ((1ULL << shift) / 2);
}

static uint64_t quantile(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += histogram[i]) > share * total) return bucket_value(i);
    return worst;
}

static const char *scan(Client *c, const char *at, const char *end) {
    int64_t time = (int64_t)(now(CLOCK_REALTIME) * 1e6);
    const char *after = at;
    while ((at = memchr(at, '@', end - at)) && end - at >= MARK) {
        int64_t stamp = 0;
        int i = at[1] == 't' ? 2 : MARK + 1;
        /* "@t" alone may be a frame's length: 16,500 bytes. */
        for (; i < MARK && at[i] >= '0' && at[i] <= '9'; i++) stamp = stamp * 10 + (at[i] - '0');
        if (i != MARK) { at++; continue; }
        note(time > stamp ? time - stamp : 0);
        c->changes++, changes++;
        at = after = at + MARK;
    }
    return after;
}

static void take(Client *c, int number) {
    static char buffer[TAIL + BUFFER];
    ssize_t size;
    do {
        size = recv(c->fd, buffer + TAIL, BUFFER, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) {
            close(c->fd);
            c->fd = -1, closed++;
            return;
        }
        char *from = buffer + TAIL - c->kept, *end = buffer + TAIL + size;
        memcpy(from, c->tail, c->kept);
        reads++, bytes += size;
        if (websocket && c->asked == 1 && memmem(from, end - from, "\r\n\r\n", 4)) subscribe(c, number), c->asked = 2;
        if (!c->ready && memmem(from, end - from, expected, strlen(expected))) c->ready = 1, ready_count++;
        const char *rest = scan(c, from, end);
        c->kept = end - rest < TAIL - 1 ? end - rest : TAIL - 1;
        memcpy(c->tail, end - c->kept, c->kept);
    } while (size == BUFFER);
}

static void report(void) {
    struct rusage usage;
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < count; i++) {
        if (clients[i].changes < least) least = clients[i].changes;
        if (clients[i].changes > most) most = clients[i].changes;
    }
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"changes\":%lu,\"reads\":%lu,\"bytes\":%lu,\"least\":%lu,\"most\":%lu,\"closed\":%d,\"cpu\":%.6f,"
           "\"p50\":%lu,\"p90\":%lu,\"p99\":%lu,\"worst\":%lu}\n",
           changes, reads, bytes, least, most, closed, cpu, quantile(.5), quantile(.9), quantile(.99), worst);
}

static void command(char *line) {
    if (!strncmp(line, "until ", 6)) {
        awaited = strtoull(line + 6, NULL, 10);
    } else if (!strcmp(line, "report")) {
        report();
    } else if (!strcmp(line, "reset")) {
        changes = reads = bytes = worst = 0;
        memset(histogram, 0, sizeof histogram);
        for (int i = 0; i < count; i++) clients[i].changes = 0;
        since = now(CLOCK_MONOTONIC);
        printf("ok\n");
    }
}

static void commands(void) {
    char input[4096], *save = NULL;
    ssize_t size = read(0, input, sizeof input - 1);
    if (size <= 0) exit(0);
    input[size] = 0;
    for (char *line = strtok_r(input, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) command(line);
}

static void happened(struct epoll_event *e) {
    int i = e->data.u32;
    if (i == count) {
        commands();
        return;
    }
    Client *c = &clients[i];
    if (c->fd >= 0 && !c->asked && (e->events & (EPOLLOUT | EPOLLERR))) {
        struct epoll_event in = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(events, EPOLL_CTL_MOD, c->fd, &in);
        ask(c, i);
        c->asked = 1;
    } else if (c->fd >= 0) {
        take(c, i);
    }
}

int main(int argc, char **argv) {
    if (argc < 7) return fprintf(stderr, "usage: swarm PORT ws|sse PATH COUNT CHANNELS READY [POSITION]\n"), 2;
    port = atoi(argv[1]), websocket = !strcmp(argv[2], "ws"), path = argv[3], count = atoi(argv[4]);
    channels = argv[5], expected = argv[6], position = argc > 7 ? argv[7] : NULL;
    clients = calloc(count, sizeof *clients);
    events = epoll_create1(0);
    struct epoll_event e[512], in = {.events = EPOLLIN, .data.u32 = count};
    if (epoll_ctl(events, EPOLL_CTL_ADD, 0, &in)) die("stdin");
    setvbuf(stdout, NULL, _IOLBF, 0);
    int told = 0;
    since = now(CLOCK_MONOTONIC);
    for (;;) {
        while (begun < count && begun - ready_count < BEGINNING) begin(begun++);
        int n = epoll_wait(events, e, 512, -1);
        for (int k = 0; k < n; k++) happened(&e[k]);
        if (closed && !told) return fprintf(stderr, "swarm: %d connections were closed early\n", closed), 1;
        if (!told && ready_count == count) told = printf("ready %.6f\n", now(CLOCK_MONOTONIC) - since);
        if (awaited && changes >= awaited) awaited = 0, printf("reached %.6f\n", now(CLOCK_MONOTONIC) - since);
    }
}
