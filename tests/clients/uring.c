/*
 * A client of testbed.services.stream that reads and writes by io_uring, without a library.
 *
 *     uring ADDRESS PORT        ECHO until a line comes: a send and a receive are always under way together
 *
 * Exit status 0 only if every byte came back, no operation failed, and no send was short.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PERIOD = 1048573, BLOCK = 1 << 16, ENTRIES = 8, SEND = 1, RECV = 2 };

static unsigned char table[2 * PERIOD], buffer[BLOCK];
static int ring, connection;
static unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

static void fail(const char *what, long detail)
{
    fprintf(stderr, "uring: %s: %ld (%s)\n", what, detail, detail < 0 ? strerror(-detail) : "");
    exit(1);
}

static void set_up(void)
{
    struct io_uring_params p = {0};
    ring = syscall(__NR_io_uring_setup, ENTRIES, &p);
    if (ring < 0)
        fail("io_uring_setup", -errno);
    size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *sq = mmap(NULL, sq_size, protection, flags, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_size, protection, flags, ring, IORING_OFF_CQ_RING);
    sqes = mmap(NULL, p.sq_entries * sizeof *sqes, protection, flags, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
        fail("mmap", -errno);
    sq_tail = (unsigned *)(sq + p.sq_off.tail);
    sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    sq_array = (unsigned *)(sq + p.sq_off.array);
    cq_head = (unsigned *)(cq + p.cq_off.head);
    cq_tail = (unsigned *)(cq + p.cq_off.tail);
    cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static void submit(int what, void *data, unsigned length)
{
    unsigned tail = *sq_tail, index = tail & *sq_mask;
    sqes[index] = (struct io_uring_sqe){
        .opcode = what == SEND ? IORING_OP_SEND : IORING_OP_RECV,
        .fd = connection,
        .addr = (unsigned long)data,
        .len = length,
        .msg_flags = what == SEND ? MSG_WAITALL : 0,
        .user_data = what,
    };
    sq_array[index] = index;
    __atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
    if (syscall(__NR_io_uring_enter, ring, 1, 0, 0, NULL, 0) != 1)
        fail("io_uring_enter", -errno);
}

/* What has ended, and its result. */
static int wait_for_one(int *result)
{
    while (*cq_head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE))
        if (syscall(__NR_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
            fail("io_uring_enter", -errno);
    struct io_uring_cqe *done = &cqes[*cq_head & *cq_mask];
    int what = done->user_data;
    *result = done->res;
    __atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
    return what;
}

int main(int argc, char **argv)
{
    struct sockaddr_in server = {.sin_family = AF_INET};
    if (argc != 3 || !inet_aton(argv[1], &server.sin_addr))
        return 2;
    server.sin_port = htons(atoi(argv[2]));
    long total = LONG_MAX, sent = 0, received = 0, sending = 0;
    unsigned x = 1;
    for (int i = 0; i < PERIOD; ++i) {
        x = 1664525u * x + 1013904223u;
        table[i] = table[i + PERIOD] = x >> 24;
    }
    connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&server, sizeof server) || write(connection, "ECHO\n", 5) != 5)
        fail("connect", -errno);
    set_up();
    submit(RECV, buffer, BLOCK);
    while (received < total) {
        struct pollfd input = {0, POLLIN, 0};
        if (total == LONG_MAX && poll(&input, 1, 0) == 1)
            total = sent + sending + BLOCK;
        if (!sending && sent < total) {
            sending = total - sent < BLOCK ? total - sent : BLOCK;
            submit(SEND, table + sent % PERIOD, sending);
        }
        int result;
        if (wait_for_one(&result) == SEND) {
            if (result != sending)
                fail("send", result);
            sent += sending;
            sending = 0;
        } else {
            if (result <= 0)
                fail("recv", result);
            if (memcmp(buffer, table + received % PERIOD, result))
                fail("wrong bytes at", received);
            received += result;
            if (received < total)
                submit(RECV, buffer, BLOCK);
        }
    }
    printf("%ld\n", received);
    return 0;
}
