/*
 * A strict client of testbed.services.stream: plain POSIX, knows nothing of M-TCP, forgives nothing.
 *
 *     strict [-g] [-c chunk] [-i interval_us] [-e export_every] [-n connections] MODE ADDRESS PORT BYTES
 *
 * MODE: recv waitall timeout poll select epoll epoll-et   download by that means
 *       upload                                            blocking send
 *       threads                                           echo: one thread writes while another reads
 *       exchange                                          echo: chunk by chunk, each read back before the next is sent
 *       turns                                             echo: each line on stdin sends BYTES and reads them back
 * -g: wait for a line on stdin between the request and the first read (or write).
 * -e: in echo modes, have the server export no more often than every so many bytes.
 * -n: in download modes, so many connections at once, a thread and BYTES for each.
 * With BYTES 0 until a line comes on stdin (another one than -g's); not in turns.
 *
 * Prints one line of JSON. Exit status 0 only if every byte was right and no call did what its manual page allows but
 * an undisturbed connection never shows.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD = 1048573, BLOCK = 1 << 16, DOWN = 0, UP = 1, LIMIT_S = 10, MOST = 2000 };

static unsigned char table[2][2 * PERIOD];
static struct sockaddr_storage server;
static socklen_t server_size;
static const char *mode;
static long total, chunk = BLOCK, interval_us, export_every, connections = 1;
static int gated;
/* Where the stream ends: a client that goes on until it is told learns that late. */
static atomic_long end;
static atomic_int told;

/* What an application must never see; the number of times that it was seen. */
static atomic_long interrupted, short_counts, error_events, would_block, timeouts, early_ends, mismatches, peer_changed,
    broken_pipes, other_errors, calls, bytes;
static atomic_long max_gap_ns;
static char first_error[128];

static void note(atomic_long *counter, const char *what, long detail)
{
    if (!first_error[0])
        snprintf(first_error, sizeof first_error, "%s (%ld) after %ld bytes", what, detail, atomic_load(&bytes));
    ++*counter;
}

static void note_errno(const char *call)
{
    switch (errno) {
    case EINTR: note(&interrupted, call, errno); break;
    case EAGAIN: note(&would_block, call, errno); break;
    case EPIPE: note(&broken_pipes, call, errno); break;
    default: note(&other_errors, call, errno);
    }
}

static void fill_tables(void)
{
    for (unsigned direction = 0; direction < 2; ++direction) {
        unsigned x = direction + 1;
        for (int i = 0; i < PERIOD; ++i) {
            x = 1664525u * x + 1013904223u;
            table[direction][i] = table[direction][i + PERIOD] = x >> 24;
        }
    }
}

static long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

/* Compare with the pattern, measure the time since the last bytes; the new offset. */
static long take(const unsigned char *data, long offset, long n, long *last_ns)
{
    if (memcmp(data, table[DOWN] + offset % PERIOD, n) != 0)
        note(&mismatches, "wrong bytes at", offset);
    long now = now_ns(), gap = now - *last_ns;
    if (*last_ns && gap > max_gap_ns)
        max_gap_ns = gap;
    *last_ns = now;
    bytes += n;
    return offset + n;
}

static void check_peer(int fd)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof peer;
    int failed = getpeername(fd, (struct sockaddr *)&peer, &size);
    /* A socket whose streams have both ended has no peer any more. */
    if (failed && errno == ENOTCONN && !total && told)
        return;
    if (failed || memcmp(&peer, &server, sizeof peer))
        note(&peer_changed, "getpeername", errno);
}

static int send_all(int fd, const unsigned char *data, long n)
{
    ++calls;
    ssize_t sent = send(fd, data, n, 0);
    if (sent == n)
        return 1;
    if (sent < 0)
        note_errno("send");
    else
        note(&short_counts, "send", sent);
    return 0;
}

static void gate(void)
{
    if (gated && getchar() == EOF)
        exit(2);
}

/* Wait for a line, and leave it there: every connection's thread waits for the same. */
static void wait_until_told(void)
{
    struct pollfd input = {0, POLLIN, 0};
    while (poll(&input, 1, -1) < 0 && errno == EINTR)
        ;
    told = 1;
}

static void beside(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    pthread_create(&thread, NULL, work, argument);
    pthread_detach(thread);
}

static void *listener(void *unused)
{
    wait_until_told();
    return unused;
}

/* A download's way to say that it is enough: the server goes on to a whole number of PERIODs, and ends. */
static void *ender(void *fd)
{
    wait_until_told();
    if (shutdown((int)(long)fd, SHUT_WR))
        note_errno("shutdown");
    return NULL;
}

/* Whether the server may end a download there. */
static int may_end(long offset)
{
    return !total && told && offset % PERIOD == 0;
}

/* What a poll may say beside that there is something to read. */
static unsigned ended_events(void)
{
    return told && !total ? POLLRDHUP | POLLHUP : 0;
}

static int read_address(const char *ip, const char *port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(ip, port, &hints, &found))
        return 0;
    memcpy(&server, found->ai_addr, server_size = found->ai_addrlen);
    freeaddrinfo(found);
    return 1;
}

static int open_connection(const char *request)
{
    int fd = socket(server.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, server_size)) {
        perror("strict: connect");
        exit(2);
    }
    send_all(fd, (const unsigned char *)request, strlen(request));
    return fd;
}

/* Blocking reads of `size` bytes. */
static void read_blocking(int fd, int flags)
{
    unsigned char buffer[BLOCK];
    long offset = 0, last = 0;
    while (offset < end && !first_error[0]) {
        long wanted = end - offset < BLOCK ? end - offset : BLOCK;
        ++calls;
        ssize_t n = recv(fd, buffer, wanted, flags);
        if (n == 0 && may_end(offset))
            break;
        if (n < 0 && errno == EAGAIN)
            note(&timeouts, "recv", errno);
        else if (n < 0)
            note_errno("recv");
        else if (n == 0)
            note(&early_ends, "recv", offset);
        else if (n < wanted && (flags & MSG_WAITALL) && !may_end(offset + n))
            note(&short_counts, "recv", n);
        if (n > 0)
            offset = take(buffer, offset, n, &last);
        check_peer(fd);
    }
}

/* Wait by the mode's means until there is something to read; 0 after an error. */
static int wait_readable(int fd, int epoll)
{
    ++calls;
    if (!strcmp(mode, "poll")) {
        struct pollfd p = {fd, POLLIN | POLLRDHUP, 0};
        int n = poll(&p, 1, LIMIT_S * 1000);
        if (n == 1 && (p.revents & ~ended_events()) != POLLIN)
            note(&error_events, "poll", p.revents);
        if (n == 1)
            return 1;
        n ? note_errno("poll") : note(&timeouts, "poll", 0);
    } else if (!strcmp(mode, "select")) {
        fd_set readable, exceptional;
        FD_ZERO(&readable);
        FD_ZERO(&exceptional);
        FD_SET(fd, &readable);
        FD_SET(fd, &exceptional);
        struct timeval limit = {LIMIT_S, 0};
        int n = select(fd + 1, &readable, NULL, &exceptional, &limit);
        if (n > 0 && FD_ISSET(fd, &exceptional))
            note(&error_events, "select", 0);
        if (n > 0)
            return 1;
        n ? note_errno("select") : note(&timeouts, "select", 0);
    } else {
        struct epoll_event event;
        int n = epoll_wait(epoll, &event, 1, LIMIT_S * 1000);
        if (n == 1 && (event.events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP) & ~ended_events()))
            note(&error_events, "epoll", event.events);
        if (n == 1)
            return 1;
        n ? note_errno("epoll_wait") : note(&timeouts, "epoll_wait", 0);
    }
    return 0;
}

static void read_by_events(int fd)
{
    unsigned char buffer[BLOCK];
    long offset = 0, last = 0;
    int over = 0, edge = !strcmp(mode, "epoll-et"), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event wanted = {EPOLLIN | EPOLLRDHUP | (edge ? EPOLLET : 0), {0}};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
    while (offset < end && !over && !first_error[0] && wait_readable(fd, epoll)) {
        for (int first = 1; offset < end; first = 0) {
            ++calls;
            ssize_t n = recv(fd, buffer, end - offset < BLOCK ? end - offset : BLOCK, 0);
            /* Edge-triggered, an event may be for what the last round has read already (epoll(7)). */
            if (n < 0 && errno == EAGAIN && (edge || !first))
                break;
            if (n < 0)
                note_errno("recv");
            else if (n == 0 && !(over = may_end(offset)))
                note(&early_ends, "recv", offset);
            if (n <= 0)
                break;
            offset = take(buffer, offset, n, &last);
            if (!edge)
                break;
        }
        check_peer(fd);
    }
    close(epoll);
}

static void *download(void *unused)
{
    (void)unused;
    char request[96];
    snprintf(request, sizeof request, "DOWN %ld %ld %ld\n", total, chunk, interval_us);
    int fd = open_connection(request);
    gate();
    if (!total)
        beside(ender, (void *)(long)fd);
    if (!strcmp(mode, "timeout")) {
        struct timeval limit = {LIMIT_S, 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    if (!strcmp(mode, "poll") || !strcmp(mode, "select") || !strncmp(mode, "epoll", 5))
        read_by_events(fd);
    else
        read_blocking(fd, strcmp(mode, "waitall") ? 0 : MSG_WAITALL);
    check_peer(fd);
    close(fd);
    return NULL;
}

static void pace(long *due)
{
    if (!interval_us)
        return;
    *due = (*due ? *due : now_ns()) + interval_us * 1000;
    struct timespec t = {*due / 1000000000L, *due % 1000000000L};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* The size of what is sent next. Once told it is the last, to which a reader that waits gets an answer. */
static long next_size(long offset)
{
    if (!total && told)
        end = offset + chunk;
    return end - offset < chunk ? end - offset : chunk;
}

/* Blocking sends of `chunk` bytes of the pattern; each must take all. */
static void write_pattern(int fd, int direction)
{
    long offset = 0, due = 0;
    while (offset < end && !first_error[0]) {
        long n = next_size(offset);
        if (!send_all(fd, table[direction] + offset % PERIOD, n))
            return;
        offset += n;
        check_peer(fd);
        pace(&due);
    }
}

static void upload(void)
{
    char text[64], expected[64];
    snprintf(text, sizeof text, "UP %ld\n", total);
    int fd = open_connection(text), n = 0;
    gate();
    write_pattern(fd, UP);
    bytes += end;
    snprintf(expected, sizeof expected, "OK %ld\n", end);
    if (!total && shutdown(fd, SHUT_WR))
        note_errno("shutdown");
    ssize_t got;
    while (n < (int)sizeof text - 1 && (got = recv(fd, text + n, sizeof text - 1 - n, 0)) != 0) {
        if (got < 0) {
            note_errno("recv");
            break;
        }
        n += got;
    }
    text[n] = 0;
    if (strcmp(text, expected))
        note(&mismatches, text, n);
    check_peer(fd);
    close(fd);
}

static void *writer(void *fd)
{
    write_pattern((int)(long)fd, DOWN);
    return NULL;
}

static int open_echo(void)
{
    char request[48];
    snprintf(request, sizeof request, "ECHO %ld\n", export_every);
    return open_connection(request);
}

static void both_ways(void)
{
    pthread_t thread;
    int fd = open_echo();
    gate();
    pthread_create(&thread, NULL, writer, (void *)(long)fd);
    read_blocking(fd, 0);
    pthread_join(thread, NULL);
    close(fd);
}

/* Send bytes [offset, offset + n) and read them back; the new offset, which is short of that after an error. */
static long turn(int fd, long offset, long n)
{
    unsigned char buffer[BLOCK];
    long last = 0, whole = offset + n;
    if (!send_all(fd, table[DOWN] + offset % PERIOD, n))
        return offset;
    while (offset < whole) {
        ++calls;
        ssize_t got = recv(fd, buffer, whole - offset < BLOCK ? whole - offset : BLOCK, MSG_WAITALL);
        if (got <= 0) {
            got ? note_errno("recv") : note(&early_ends, "recv", offset);
            break;
        }
        last = 0;
        offset = take(buffer, offset, got, &last);
    }
    check_peer(fd);
    return offset;
}

static void exchange(void)
{
    long offset = 0, due = 0;
    int fd = open_echo();
    gate();
    while (offset < end && !first_error[0]) {
        offset = turn(fd, offset, next_size(offset));
        pace(&due);
    }
    close(fd);
}

/* Sends nothing until told: the connection is idle in between. */
static void turns(void)
{
    long offset = 0;
    int fd = open_echo();
    while (getchar() != EOF && !first_error[0]) {
        offset = turn(fd, offset, total);
        printf("turn\n");
        fflush(stdout);
    }
    end = offset;
    close(fd);
}

static void on_pipe(int signal)
{
    (void)signal;
    ++broken_pipes;
}

int main(int argc, char **argv)
{
    int option;
    while ((option = getopt(argc, argv, "gc:i:e:n:")) != -1) {
        switch (option) {
        case 'g': gated = 1; break;
        case 'c': chunk = atol(optarg); break;
        case 'i': interval_us = atol(optarg); break;
        case 'e': export_every = atol(optarg); break;
        case 'n': connections = atol(optarg); break;
        default: return 2;
        }
    }
    if (argc - optind != 4 || connections < 1 || connections > MOST) {
        fprintf(stderr, "usage: strict [-g] [-c chunk] [-i interval_us] [-e export_every] [-n connections (1-%d)] "
                        "MODE ADDRESS PORT BYTES\n", MOST);
        return 2;
    }
    mode = argv[optind];
    total = atol(argv[optind + 3]);
    if (!read_address(argv[optind + 1], argv[optind + 2]) || chunk < 1 || chunk > PERIOD) {
        fprintf(stderr, "strict: ADDRESS is a number, chunk at most %d\n", PERIOD);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_pipe};
    sigaction(SIGPIPE, &action, NULL);
    fill_tables();
    setvbuf(stdin, NULL, _IONBF, 0);
    end = total ? total : LONG_MAX;
    int writes = !strcmp(mode, "upload") || !strcmp(mode, "threads") || !strcmp(mode, "exchange");
    if (writes && !total)
        beside(listener, NULL);
    if (!strcmp(mode, "upload")) {
        upload();
    } else if (!strcmp(mode, "threads")) {
        both_ways();
    } else if (!strcmp(mode, "turns")) {
        turns();
    } else if (!strcmp(mode, "exchange")) {
        exchange();
    } else {
        static const char *modes[] = {"recv", "waitall", "timeout", "poll", "select", "epoll", "epoll-et", NULL};
        int known = 0;
        while (modes[known] && strcmp(mode, modes[known]))
            ++known;
        if (!modes[known]) {
            fprintf(stderr, "strict: unknown mode %s\n", mode);
            return 2;
        }
        pthread_t others[MOST];
        for (int i = 1; i < connections; ++i)
            pthread_create(&others[i], NULL, download, NULL);
        download(NULL);
        for (int i = 1; i < connections; ++i)
            pthread_join(others[i], NULL);
        end = total ? connections * total : bytes;
    }
    long violations = interrupted + short_counts + error_events + would_block + timeouts + early_ends + mismatches +
                      peer_changed + broken_pipes + other_errors;
    int ok = !violations && bytes == end;
    printf("{\"mode\": \"%s\", \"ok\": %s, \"bytes\": %ld, \"calls\": %ld, \"interrupted\": %ld, \"short_counts\": %ld, "
           "\"error_events\": %ld, \"would_block\": %ld, \"timeouts\": %ld, \"early_ends\": %ld, \"mismatches\": %ld, "
           "\"peer_changed\": %ld, \"broken_pipes\": %ld, \"other_errors\": %ld, \"max_gap_ms\": %.3f, "
           "\"first_error\": \"%.*s\"}\n",
           mode, ok ? "true" : "false", bytes, calls, interrupted, short_counts, error_events, would_block, timeouts,
           early_ends, mismatches, peer_changed, broken_pipes, other_errors, max_gap_ns / 1e6,
           (int)strcspn(first_error, "\n\"\\"), first_error);
    return ok ? 0 : 1;
}
