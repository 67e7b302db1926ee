/*
 * The M-TCP papers' counter in C11, without the library: each byte received adds one, the answer is the sum.
 *
 *     cc -std=c11 -O2 -Wall -Wextra -pthread -o counter counter.c && ./counter 7002
 *
 * What it says to its host's agent, and what it shares with it, is written down in docs/wire.md. Its state is the sum
 * in decimal, as that of testbed/services/counter.py: connections move from one to the other and back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { OPEN, FENCED, MIGRATED };                       /* the fence */
enum { LOG_SIZE = 1 << 16, STATE_MAX = 64 };           /* of connections that begin here, or move here */
enum { LOOK_MS = 500, RETRY_MS = 200 };                /* for an agent; for another one */
enum { FENCED_FIRST_US = 100, FENCED_US = 5000 };      /* between looks at a fence that is down, at first and at most */
enum { SYN_MAX = 512, MESSAGE_MAX = 4096, DESCRIPTORS = 3 };

/* The capsule's header. What both sides use at the same time is atomic; the rest is ours while the fence is open. */
struct slot {
    uint32_t length, bits; /* 1: ended */
    uint64_t rcv_offset, snd_offset, unused;
};
struct capsule {
    char magic[8];
    uint32_t version;
    _Atomic uint32_t fence, current, overflow;
    uint32_t log_size, state_max;
    uint64_t read_offset, write_offset, swallow;
    _Atomic uint32_t ended;
    char unused[68];
    struct slot slots[2];
    char unused_too[68];
    _Atomic uint32_t attempt;
    char agents[3832];
    char states[];
};
_Static_assert(offsetof(struct capsule, read_offset) == 32 && offsetof(struct capsule, ended) == 56, "docs/wire.md");
_Static_assert(offsetof(struct capsule, slots) == 128 && sizeof(struct slot) == 32, "docs/wire.md");
_Static_assert(offsetof(struct capsule, attempt) == 260 && offsetof(struct capsule, states) == 4096, "docs/wire.md");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock within the atomics would not be shared with the agent");

struct connection {
    int socket, file, lifeline, channel; /* file: the capsule's; channel: to another agent than it began with */
    struct capsule *capsule;             /* NULL: plain TCP */
    uint64_t log_size, state_max;        /* of the capsule, read once */
    bool moved, lost, refused;           /* it began elsewhere; it has no agent; no other will have it */
    int64_t look_at;                     /* when to see whether there is an agent, ms */
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void shut(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

/* -- messages: a packet each, with descriptors beside it */

static int agent(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0mtcp-agent"};
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + sizeof "\0mtcp-agent" - 1;
    struct timeval patience = {.tv_usec = 100000}; /* an agent that hangs is none */
    int channel = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (channel < 0)
        return -1;
    setsockopt(channel, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(channel, (struct sockaddr *)&address, size))
        shut(&channel);
    return channel;
}

static bool say(int channel, const char *message, const int *descriptors, size_t count)
{
    union {
        char bytes[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    struct iovec text = {(void *)message, strlen(message)};
    struct msghdr packet = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control.bytes};
    packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *beside = CMSG_FIRSTHDR(&packet);
    *beside = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(beside), descriptors, count * sizeof(int));
    return sendmsg(channel, &packet, MSG_NOSIGNAL) >= 0;
}

/* Bytes of the next packet; 0 or -1 when the agent has gone, or said nothing. Descriptors that did not come are -1. */
static ssize_t hear(int channel, char message[MESSAGE_MAX], int descriptors[DESCRIPTORS], int flags)
{
    union {
        char bytes[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec text = {message, MESSAGE_MAX - 1};
    struct msghdr packet = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control.bytes};
    packet.msg_controllen = sizeof control;
    memset(descriptors, -1, DESCRIPTORS * sizeof(int));
    ssize_t n = recvmsg(channel, &packet, flags | MSG_CMSG_CLOEXEC);
    message[n > 0 ? n : 0] = '\0';
    for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&packet) : NULL; c; c = CMSG_NXTHDR(&packet, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(descriptors, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    return n;
}

/* -- the agent ends, and another begins */

static void attach_again(struct connection *c)
{
    int pipe_ends[2], descriptors[DESCRIPTORS];
    char message[MESSAGE_MAX];
    /* Only if it will not have the connection does the agent answer. */
    while (c->channel >= 0 && !c->refused) {
        ssize_t n = hear(c->channel, message, descriptors, MSG_DONTWAIT);
        if (n > 0)
            c->refused = strstr(message, "\"refused\"") != NULL;
        else if (n < 0 && errno == EAGAIN)
            break;
        else
            shut(&c->channel);
    }
    if (c->refused) {
        uint32_t fenced = FENCED; /* nobody will ever say what became of it */
        atomic_compare_exchange_strong(&c->capsule->fence, &fenced, MIGRATED);
        return;
    }
    if ((c->channel < 0 && (c->channel = agent()) < 0) || pipe2(pipe_ends, O_CLOEXEC))
        return;
    int shown[] = {c->socket, c->file, pipe_ends[0]};
    bool said = say(c->channel, "{\"op\": \"attach\", \"again\": true}", shown, 3);
    shut(&pipe_ends[0]);
    shut(said ? &c->lifeline : &pipe_ends[1]);
    if (said)
        c->lifeline = pipe_ends[1];
}

static void look_for_agent(struct connection *c)
{
    if (!c->capsule || c->refused || now() < c->look_at)
        return;
    struct pollfd lifeline = {c->lifeline, 0, 0};
    c->lost = poll(&lifeline, 1, 0) > 0 && atomic_load(&c->capsule->fence) != MIGRATED;
    c->look_at = now() + (c->lost ? RETRY_MS : LOOK_MS);
    if (c->lost)
        attach_again(c);
}

/* -- the fence */

static void wait_for(struct connection *c, short events, long us)
{
    look_for_agent(c);
    if (c->lost && (us < 0 || us > 1000L * RETRY_MS))
        us = 1000L * RETRY_MS;
    struct timespec time = {us / 1000000, us % 1000000 * 1000}; /* poll(2) would wait for a millisecond at least */
    struct pollfd on[] = {{c->socket, events, 0}, {c->lost || c->refused ? -1 : c->lifeline, 0, 0}};
    ppoll(on, 2, us < 0 ? NULL : &time, NULL);
    if (on[1].revents)
        c->look_at = 0;
}

/* Waits for the outcome if the connection is being moved. False when it has left. */
static bool is_here(struct connection *c)
{
    for (long us = FENCED_FIRST_US; c->capsule; us = us < FENCED_US / 2 ? 2 * us : FENCED_US) {
        uint32_t fence = atomic_load(&c->capsule->fence);
        if (fence != FENCED)
            return fence == OPEN;
        wait_for(c, 0, us);
    }
    return true;
}

static bool is_open(struct connection *c)
{
    return !c->capsule || atomic_load(&c->capsule->fence) == OPEN;
}

/* Excludes other processes that have the connection by fork(2); the agent never takes this lock. */
static void lock(struct connection *c, short kind)
{
    struct flock whole = {.l_type = kind, .l_whence = SEEK_SET};
    while (c->capsule && fcntl(c->file, F_OFD_SETLKW, &whole) && errno == EINTR)
        ;
}

typedef ssize_t operation(struct connection *, char *, size_t);

/* Calls `once` until it has done something; -1 when the connection has failed, or has left (ECONNABORTED). */
static ssize_t attempt(struct connection *c, operation *once, char *data, size_t size, short events)
{
    for (;;) {
        look_for_agent(c);
        if (!is_here(c)) {
            errno = ECONNABORTED;
            return -1;
        }
        lock(c, F_WRLCK);
        uint32_t decided = c->capsule ? atomic_load(&c->capsule->attempt) : 0;
        ssize_t n = -1;
        errno = EINTR;
        if (is_open(c))
            n = once(c, data, size);
        int error = errno;
        bool open = is_open(c);
        bool undone = c->capsule && atomic_load(&c->capsule->attempt) != decided;
        lock(c, F_UNLCK);
        if (n >= 0 && is_here(c))
            return n;
        /* A frozen socket refuses everything; one that has left is not connected, or at its end. */
        if (n >= 0 || !open || error == EINTR || (undone && (error == EPERM || error == EINVAL)))
            continue;
        if (error != EAGAIN) {
            errno = error;
            return -1;
        }
        wait_for(c, events, -1);
    }
}

/* -- what an application does with a connection */

static ssize_t receive_once(struct connection *c, char *data, size_t size)
{
    struct capsule *capsule = c->capsule;
    if (!capsule)
        return recv(c->socket, data, size, MSG_DONTWAIT);
    uint64_t at = capsule->read_offset % c->log_size;
    uint64_t used = capsule->read_offset - capsule->slots[atomic_load(&capsule->current) & 1].rcv_offset;
    uint64_t space = used < c->log_size ? c->log_size - used : 0;
    if (space > c->log_size - at)
        space = c->log_size - at;
    if (space && size > space)
        size = space;
    /* Straight into the log: as soon as the kernel counts a byte as read, the agent looks for it there. */
    char *place = space ? capsule->states + 2 * c->state_max + at : data;
    ssize_t n = recv(c->socket, place, size, MSG_DONTWAIT);
    if (n <= 0)
        return n;
    if (space)
        memcpy(data, place, n);
    else
        atomic_store(&capsule->overflow, 1);
    capsule->read_offset += n;
    return n;
}

static ssize_t send_once(struct connection *c, char *data, size_t size)
{
    struct capsule *capsule = c->capsule;
    if (capsule && capsule->swallow) { /* the client has it already */
        uint64_t n = size < capsule->swallow ? size : capsule->swallow;
        capsule->swallow -= n;
        return n;
    }
    ssize_t n = send(c->socket, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (capsule && n > 0)
        capsule->write_offset += n;
    return n;
}

static bool send_all(struct connection *c, char *data, size_t size)
{
    for (ssize_t n; size; data += n, size -= n)
        if ((n = attempt(c, send_once, data, size, POLLOUT)) < 0)
            return false;
    return true;
}

static ssize_t export_once(struct connection *c, char *state, size_t length)
{
    struct capsule *capsule = c->capsule;
    if (!capsule)
        return 0;
    uint32_t next = 1 - (atomic_load(&capsule->current) & 1);
    memcpy(capsule->states + next * c->state_max, state, length);
    uint64_t written = capsule->write_offset - capsule->swallow;
    capsule->slots[next] = (struct slot){length, atomic_load(&capsule->ended), capsule->read_offset, written, 0};
    /* Sequentially consistent, as is our look at the fence, which follows: the agent sets that, then looks at this. */
    atomic_store(&capsule->current, next);
    atomic_store(&capsule->overflow, 0);
    return 0;
}

static void *count(void *argument)
{
    struct connection *c = argument;
    unsigned long long sum = 0;
    char line[32], byte;
    bool goes_on = true;
    if (c->moved) {
        struct slot *slot = &c->capsule->slots[atomic_load(&c->capsule->current) & 1];
        char state[STATE_MAX + 1] = "";
        memcpy(state, c->capsule->states + (slot == c->capsule->slots ? 0 : c->state_max),
               slot->length < STATE_MAX ? slot->length : STATE_MAX);
        sum = strtoull(state, NULL, 10);
        if (*state) /* what the client has of this answer is swallowed */
            goes_on = send_all(c, line, snprintf(line, sizeof line, "%llu\n", sum));
    }
    while (goes_on && attempt(c, receive_once, &byte, 1, POLLIN) == 1) {
        int length = snprintf(line, sizeof line, "%llu\n", ++sum);
        goes_on = attempt(c, export_once, line, length - 1, 0) == 0 && send_all(c, line, length);
    }
    close(c->socket);
    if (c->capsule) {
        munmap(c->capsule, offsetof(struct capsule, states) + 2 * c->state_max + c->log_size);
        close(c->file);
        (void)!write(c->lifeline, "-", 1); /* fails when the agent has ended, or knows that the connection has left */
        shut(&c->lifeline);
        shut(&c->channel);
    }
    free(c);
    return NULL;
}

/* -- where connections come from */

/* Whether the SYN asked for M-TCP (option 253, ExID 0x4D54, CAPABLE of version 1), and was not Multipath TCP's (30). */
static bool asked_for_mtcp(int socket)
{
    unsigned char syn[SYN_MAX];
    socklen_t length = sizeof syn;
    bool capable = false;
    if (getsockopt(socket, IPPROTO_TCP, TCP_SAVED_SYN, syn, &length) || !length)
        return false;
    size_t tcp = syn[0] >> 4 == 6 ? 40 : 4 * (syn[0] & 15), at = tcp + 20;
    if (length < at)
        return false;
    size_t end = tcp + 4 * (syn[tcp + 12] >> 4);
    for (size_t size; at < end && end <= length && syn[at]; at += size) {
        size = syn[at] == 1 ? 1 : at + 1 < end ? syn[at + 1] : 0;
        if (!size || (syn[at] != 1 && size < 2) || at + size > end || syn[at] == 30)
            return false;
        capable |= syn[at] == 253 && size >= 8 && !memcmp(syn + at + 2, "MT\x11", 3);
    }
    return capable;
}

/* Maps the capsule, and reads its sizes once. False when it is none. */
static bool map_capsule(struct connection *c)
{
    struct stat file;
    if (fstat(c->file, &file) || (size_t)file.st_size < offsetof(struct capsule, states))
        return false;
    void *memory = mmap(NULL, file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->file, 0);
    if (memory == MAP_FAILED)
        return false;
    c->capsule = memory;
    c->log_size = c->capsule->log_size;
    c->state_max = c->capsule->state_max;
    size_t expected = offsetof(struct capsule, states) + 2 * c->state_max + c->log_size;
    if (!memcmp(c->capsule->magic, "MTCPCAPS", 8) && c->capsule->version == 1 && (size_t)file.st_size == expected)
        return true;
    munmap(memory, file.st_size);
    c->capsule = NULL;
    return false;
}

/* Gives the agent what it needs of a new connection; without that it is plain TCP. */
static void attach(struct connection *c, int channel)
{
    int pipe_ends[2] = {-1, -1};
    c->file = memfd_create("mtcp-capsule", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct capsule head = {.magic = "MTCPCAPS", .version = 1, .log_size = LOG_SIZE, .state_max = STATE_MAX};
    if (c->file >= 0 && !ftruncate(c->file, sizeof head + 2 * STATE_MAX + LOG_SIZE)
        && pwrite(c->file, &head, sizeof head, 0) == sizeof head
        && !fcntl(c->file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) && !pipe2(pipe_ends, O_CLOEXEC)
        && map_capsule(c)) {
        int shown[] = {c->socket, c->file, pipe_ends[0]};
        c->lifeline = pipe_ends[1];
        if (say(channel, "{\"op\": \"attach\"}", shown, 3)) {
            shut(&pipe_ends[0]);
            return;
        }
        munmap(c->capsule, sizeof head + 2 * STATE_MAX + LOG_SIZE);
        c->capsule = NULL;
    }
    shut(&c->file);
    shut(&pipe_ends[0]);
    shut(&pipe_ends[1]);
    c->lifeline = -1;
}

static void serve(struct connection of)
{
    pthread_t thread;
    struct connection *c = malloc(sizeof *c);
    if (c)
        *c = of;
    if (c && !pthread_create(&thread, NULL, count, c)) {
        pthread_detach(thread);
        return;
    }
    /* No '-' into the lifeline: for a minute the agent keeps what we cannot serve, and it may move away. */
    free(c);
    shut(&of.socket);
    shut(&of.file);
    shut(&of.lifeline);
}

static void accepted(int listener, int channel)
{
    int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct connection c = {socket, -1, -1, -1, .look_at = now() + LOOK_MS};
    if (c.socket < 0)
        return;
    if (channel >= 0 && asked_for_mtcp(c.socket))
        attach(&c, channel);
    serve(c);
}

/* Takes what the agent says. False when it has ended. */
static bool told(int channel)
{
    char message[MESSAGE_MAX], path[32];
    int descriptors[DESCRIPTORS];
    ssize_t n = hear(channel, message, descriptors, MSG_DONTWAIT);
    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    /* Only a connection that has moved here has descriptors beside it: no other message needs to be understood. */
    if (descriptors[2] >= 0) {
        struct connection c = {descriptors[0], -1, descriptors[2], -1, .moved = true, .look_at = now() + LOOK_MS};
        /* Opened anew, so that a lock is this process's own. */
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptors[1]);
        c.file = open(path, O_RDWR | O_CLOEXEC);
        shut(&descriptors[1]);
        if (map_capsule(&c)) {
            serve(c);
            return true;
        }
        shut(&c.file);
    }
    for (int i = 0; i < DESCRIPTORS; ++i)
        shut(&descriptors[i]);
    return true;
}

/* Says that this process has the port: before listen(2), so that no client comes before the agent knows. */
static int announce(int listener)
{
    char message[80];
    int channel = agent();
    snprintf(message, sizeof message, "{\"op\": \"listen\", \"log_size\": %d, \"state_max\": %d}", LOG_SIZE, STATE_MAX);
    if (channel >= 0 && !say(channel, message, &listener, 1))
        shut(&channel);
    return channel;
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(argc > 1 ? atoi(argv[1]) : 7002)};
    int yes = 1, no = 0, descriptors[DESCRIPTORS];
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    char answer[MESSAGE_MAX];
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (setsockopt(listener, IPPROTO_TCP, TCP_SAVE_SYN, &yes, sizeof yes)
        || bind(listener, (struct sockaddr *)&any, sizeof any)) {
        perror("counter: cannot have the port");
        return 1;
    }
    int channel = announce(listener);
    if (channel < 0 || hear(channel, answer, descriptors, 0) <= 0 || strstr(answer, "\"error\"")) {
        fprintf(stderr, "counter: %s\n", channel < 0 ? "no agent runs on this host" : answer);
        return 1;
    }
    if (listen(listener, SOMAXCONN)) {
        perror("counter: cannot listen");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    struct pollfd on[] = {{listener, POLLIN, 0}, {channel, POLLIN, 0}, {signalfd(-1, &ends, SFD_CLOEXEC), POLLIN, 0}};
    while (!on[2].revents) {
        if (poll(on, 3, channel < 0 ? RETRY_MS : -1) < 0)
            continue;
        if (on[1].revents && !told(channel))
            shut(&channel);
        if (channel < 0) /* until there is another agent, new connections are plain TCP */
            channel = announce(listener);
        on[1].fd = channel;
        if (on[0].revents)
            accepted(listener, channel);
    }
    shut(&listener);
    shut(&channel);
    shut(&on[2].fd);
    return 0;
}
