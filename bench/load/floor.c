/* The floor of a fan-out: one send() of bytes that are framed already to each client, and nothing else.
 *
 *   floor PORT
 *
 * Answers any request with a WebSocket's handshake. Command on stdin:
 *   go RATE SECONDS BURST FILE     send FILE's bytes to all, BURST times at each of RATE ticks a second; then a line of JSON
 * A mark in the bytes ("@t" and 16 digits) is set to the time of the tick. End of input ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, MESSAGE = 1 << 20 };
static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
static int fds[MOST], clients, timer;
static char message[MESSAGE];
static size_t size;
static long ticks, burst, sends, cut;

static void stamp(void) {
    struct timespec t;
    char digits[17];
    clock_gettime(CLOCK_REALTIME, &t);
    snprintf(digits, sizeof digits, "%016ld", t.tv_sec * 1000000L + t.tv_nsec / 1000);
    for (char *at = message; (at = memmem(at, message + size - at, "@t", 2)); at += 2) memcpy(at + 2, digits, 16);
}

static void tick(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0 || ticks <= 0) return;
    stamp();
    for (int b = 0; b < burst; b++)
        for (int i = 0; i < clients; i++) {
            cut += send(fds[i], message, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size;
            sends++;
        }
    if (--ticks) return;
    struct itimerspec never = {0};
    timerfd_settime(timer, 0, &never, NULL);
    printf("{\"sends\":%ld,\"cut\":%ld}\n", sends, cut);
}

static void go(const char *line) {
    double rate, seconds;
    char name[4000];
    if (sscanf(line, "go %lf %lf %ld %3999s", &rate, &seconds, &burst, name) != 4) exit(2);
    FILE *file = fopen(name, "rb");
    if (!file) exit(3);
    size = fread(message, 1, MESSAGE, file);
    fclose(file);
    ticks = (long)(rate * seconds + .5), sends = cut = 0;
    long gap = (long)(1e9 / rate);
    struct timespec every = {gap / 1000000000L, gap % 1000000000L};
    struct itimerspec pace = {every, every};
    timerfd_settime(timer, 0, &pace, NULL);
}

int main(int argc, char **argv) {
    char input[8192];
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), events = epoll_create1(0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) return perror("listen"), 1;
    timer = timerfd_create(CLOCK_MONOTONIC, 0);
    int watched[] = {0, listener, timer};
    for (int i = 0; i < 3; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = watched[i]};
        epoll_ctl(events, EPOLL_CTL_ADD, watched[i], &e);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("listening");
    for (;;) {
        struct epoll_event e;
        if (epoll_wait(events, &e, 1, -1) < 1) continue;
        if (e.data.fd == timer) {
            tick();
        } else if (e.data.fd == listener) {
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            struct epoll_event first = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = fd};
            if (fd < 0 || clients == MOST) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            fds[clients++] = fd;
            epoll_ctl(events, EPOLL_CTL_ADD, fd, &first);
        } else {
            ssize_t got = read(e.data.fd, input, sizeof input - 1);
            if (e.data.fd == 0 && got <= 0) return 0;
            input[got > 0 ? got : 0] = 0;
            if (e.data.fd == 0) go(input);
            else if (got > 0) send(e.data.fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL);
        }
    }
}
