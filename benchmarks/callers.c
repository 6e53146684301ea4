/* The callers of callers.py, compiled: their processor time is missing from the measured server, and in Python it was twice as
 * much. One thread, one epoll, no library but the C one.
 *
 *     callers PORT WAITING FILE FILE SECONDS:RATE ...
 *
 * WAITING callers send the first file, a whole request, to 127.0.0.1:PORT, each again when it has its answer. Others send the
 * second file evenly spaced, whatever the answers: RATE a second in each phase. With RATE as xF it is F times the answers of
 * status 200 in the phase before, at least one a second. After the last phase no request is sent, and all answers are awaited.
 *
 * Prints the monotonic seconds at which the first phase began, then a line for each answer: w or o (the caller), the seconds
 * at which it was asked and at which the answer was complete, its status. */

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 1024, HEAD_BYTES = 8192, PIECE_BYTES = 1 << 18 };

static const double PATIENCE_S = 60.0; /* for the last answers */

typedef struct {
    const char *bytes;
    size_t size;
    char name;
} Request;

typedef struct {
    int link;
    const Request *request; /* NULL while the connection is idle */
    size_t sent;
    double begun;
    bool is_answered;
    long left;        /* bytes of the answer's body that are still to come; -1 before its head is complete */
    size_t head_size; /* of what has come of the answer, up to the end of its head */
    char head[HEAD_BYTES + 1];
} Connection;

static Connection connections[CONNECTIONS];
static int idle[CONNECTIONS], idle_count, opened, asking, poll_link;
static long masks; /* answers with status 200 */
static struct sockaddr_in server;
static Request waiting = {NULL, 0, 'w'}, others = {NULL, 0, 'o'};
static char piece[PIECE_BYTES];

static void fail(const char *why)
{
    fprintf(stderr, "callers: %s\n", why);
    exit(1);
}

/* The same where the system says why. */
static void fail_at(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void read_request(Request *request, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail_at(path);
    request->size = (size_t)ftell(file);
    char *bytes = malloc(request->size);
    rewind(file);
    if (!bytes || fread(bytes, 1, request->size, file) != request->size)
        fail_at(path);
    fclose(file);
    request->bytes = bytes;
}

static void listen_for(int number, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.fd = number};
    if (epoll_ctl(poll_link, operation, connections[number].link, &event))
        fail_at("callers: epoll_ctl");
}

static void connect_to_server(int number)
{
    Connection *connection = &connections[number];
    connection->link = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->link < 0 || connect(connection->link, (struct sockaddr *)&server, sizeof server))
        fail_at("callers: connect");
    listen_for(number, EPOLLIN, EPOLL_CTL_ADD);
}

/* Send what can be sent now; whether that was the rest. */
static bool is_sent(Connection *connection)
{
    const Request *request = connection->request;
    ssize_t size = send(connection->link, request->bytes + connection->sent, request->size - connection->sent, MSG_DONTWAIT);
    if (size < 0 && errno != EAGAIN)
        fail_at("callers: send");
    if (size > 0)
        connection->sent += (size_t)size;
    return connection->sent == request->size;
}

static void ask(const Request *request)
{
    int number = idle_count ? idle[--idle_count] : opened++;
    if (number == CONNECTIONS)
        fail("the server answers so late that there are not connections enough");
    Connection *connection = &connections[number];
    if (!connection->link)
        connect_to_server(number);
    connection->request = request;
    connection->sent = connection->head_size = 0;
    connection->is_answered = false;
    connection->left = -1;
    connection->begun = now();
    asking++;
    if (!is_sent(connection))
        listen_for(number, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

/* Take a piece of an answer. */
static void hear(Connection *connection, const char *bytes, size_t size)
{
    if (connection->left < 0) {
        size_t before = connection->head_size, free_bytes = HEAD_BYTES - before;
        size_t kept = size < free_bytes ? size : free_bytes;
        memcpy(connection->head + before, bytes, kept);
        connection->head_size += kept;
        connection->head[connection->head_size] = 0;
        char *end = strstr(connection->head, "\r\n\r\n"), *length = strcasestr(connection->head, "\r\ncontent-length:");
        if (!end && kept == size)
            return;
        if (!end || !length || length > end)
            fail("an answer without a length");
        connection->left = atol(length + strlen("\r\ncontent-length:"));
        size -= (size_t)(end + 4 - connection->head) - before;
    }
    connection->left -= (long)size;
}

/* Whatever there is on a connection. */
static void attend(int number, uint32_t events)
{
    Connection *connection = &connections[number];
    if (connection->request && events & EPOLLOUT && is_sent(connection))
        listen_for(number, EPOLLIN, EPOLL_CTL_MOD);
    if (!(events & ~(uint32_t)EPOLLOUT))
        return;
    ssize_t size = recv(connection->link, piece, sizeof piece, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN)
        return;
    if (!connection->request) { /* the server ends what is idle: the next who takes this one connects again */
        close(connection->link);
        connection->link = 0;
        return;
    }
    if (size < 0)
        fail_at("callers: recv");
    if (size == 0)
        fail("the server closed a connection without an answer");
    hear(connection, piece, (size_t)size);
    if (connection->left == 0) {
        int status = atoi(connection->head + strlen("HTTP/1.1 "));
        printf("%c %.6f %.6f %d\n", connection->request->name, connection->begun, now(), status);
        masks += status == 200;
        connection->is_answered = true;
    }
}

/* Wait for what comes until then; those who wait their turn ask again, if they may. */
static void hear_until(double until, bool again)
{
    struct epoll_event events[64];
    for (double left; (left = until - now()) > 0 && (again || asking);) {
        int count = epoll_wait(poll_link, events, 64, (int)ceil(1000 * left));
        if (count < 0)
            fail_at("callers: epoll_wait");
        for (int at = 0; at < count; at++) {
            Connection *connection = &connections[events[at].data.fd];
            attend(events[at].data.fd, events[at].events);
            const Request *request = connection->request;
            /* An answer may come before all of a request is sent; the connection is free when both are done. */
            if (!request || !connection->is_answered || connection->sent < request->size)
                continue;
            connection->request = NULL;
            idle[idle_count++] = events[at].data.fd;
            asking--;
            if (again && request == &waiting)
                ask(&waiting);
        }
    }
}

int main(int count, char **words)
{
    enum { PORT = 1, WAITING, WAITING_FILE, OTHERS_FILE, PHASES };
    if (count <= PHASES) {
        fprintf(stderr, "callers PORT WAITING FILE FILE SECONDS:RATE ...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOFBF, 1 << 24); /* written when all is over */
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[PORT]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    read_request(&waiting, words[WAITING_FILE]);
    read_request(&others, words[OTHERS_FILE]);
    if ((poll_link = epoll_create1(0)) < 0)
        fail_at("callers: epoll_create1");

    double end = now(), length = 1.0;
    long before = 0;
    printf("%.6f\n", end);
    for (int caller = 0; caller < atoi(words[WAITING]); caller++)
        ask(&waiting);
    for (int at = PHASES; at < count; at++) {
        char *rate = strchr(words[at], ':');
        if (!rate)
            fail("a phase is SECONDS:RATE");
        double each = rate[1] == 'x' ? atof(rate + 2) * fmax((double)(masks - before) / length, 1.0) : atof(rate + 1);
        double begun = end;
        before = masks;
        length = atof(words[at]);
        end += length;
        long asked = (long)ceil(length * each - 1e-9); /* counted, because sums of 1 / each are rounded by the clock's size */
        for (long number = 0; number < asked; number++) {
            hear_until(begun + (double)number / each, true);
            ask(&others);
        }
        hear_until(end, true);
    }
    hear_until(end + PATIENCE_S, false);
    if (asking)
        fail("no answer for a minute");
    return 0;
}
