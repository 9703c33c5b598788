# cython: language_level=3
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    #include <time.h>
    #define HAVE_EPOLL 1
    /* It takes some nanoseconds, and is some milliseconds behind. */
    static inline long long coarse_time(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    #else
    #define HAVE_EPOLL 0
    #include <stdint.h>
    /* Never called. */
    typedef union { uint64_t u64; } epoll_data_t;
    struct epoll_event { unsigned events; epoll_data_t data; };
    #define EPOLLIN 0
    #define EPOLL_CLOEXEC 0
    #define EPOLL_CTL_ADD 0
    #define EPOLL_CTL_DEL 0
    #define epoll_create1(flags) (-1)
    #define epoll_ctl(poller, what, fd, event) (-1)
    #define epoll_wait(poller, events, most, timeout) (-1)
    #define coarse_time() (0LL)
    #endif
    """
    bint HAVE_EPOLL
    long long coarse_time() noexcept nogil
    unsigned EPOLLIN
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int poller, int what, int fd, epoll_event *event) nogil
    int epoll_wait(int poller, epoll_event *events, int most, int timeout) nogil

cdef enum:
    # How many sockets are told of in one go, and for how many nanoseconds, before the hub looks at anything else.
    BATCH = 128
    TURN = 5000000
    SCRATCH = 64 * 1024

cdef class Stream:
    cdef object _fileno

    cdef int _descriptor(self) except? -1
    cpdef object receive(self, Py_ssize_t size)
    cpdef Py_ssize_t receive_into(self, target) except? -2
    cpdef Py_ssize_t send(self, data, bint more=*) except? -1
    cpdef bint pending(self) except? -1

cdef class Poller:
    cdef object __weakref__
    cdef int _descriptor
    cdef object _watcher
    cdef list _watches
    cdef list _free
    cdef unsigned _serial
    cdef Py_ssize_t _watched
    cdef epoll_event _ready[BATCH]
    cdef int _at
    cdef int _count
    cdef bint _serving
    cdef long long _turn_ends

    cdef int add(self, Watch watch) except -1
    cdef int register(self, Watch watch) except -1
    cdef int remove(self, Watch watch) except -1
    cdef int forget(self, Watch watch) except -1
    cdef int let_go(self) except -1
    cdef Watch next_watch(self)
    cdef object next_receiver(self, hub, bint plain)
    cpdef poll(self)
    cdef int serve(self) except -1
    cdef int begin_anew(self) except -1
    cpdef renew(self)

cdef class Readiness:
    cdef public bint readable
    cdef public object receiver

cdef class Watch(Readiness):
    cdef object _callback
    cdef object _hub
    cdef object _socket
    cdef int _descriptor
    cdef Poller _poller
    cdef object _watcher
    cdef int _place
    cdef unsigned _serial
    cdef readonly bint watching

    cdef bint is_closed(self) except -1
    cpdef start(self)
    cpdef stop(self)
    cpdef close(self)
    cpdef rest(self)
    cpdef ready(self)

cpdef object getcurrent()
cpdef object switch_to(target, value)
cpdef unsigned long thread_ident() noexcept
