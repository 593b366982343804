"""A team: threads that share the units of one recurrent layer, and meet at a barrier after every phase of every step.

The caller's thread leads. It starts alone, admits the others once they have all arrived (a sleeping thread takes long
to wake), and goes on alone when they let it wait too long: on a busy machine a thread can lose its core for
milliseconds, and a team that waits for it at every step collapses. The barrier is one number of each thread, written by
itself and read by the others.
"""
from openmp cimport omp_get_wtime

from fastrnn.kernels.tuning cimport LONGEST_REST, TURNS_TO_WAIT

cdef extern from "team.h" nogil:
    ctypedef struct signal_t:
        pass
    long heard(const signal_t* signal)
    long add_to(signal_t* signal, long value)
    void tell(signal_t* signal, long value)
    void wait_a_little(long turns)

cdef extern from *:
    """
    /* Seconds that a multiply-add takes at most on one thread of a machine that fastrnn runs on: what is not known to
     * be slow must not be taken for the machine's pace when the first call happens to wait. */
    #define FASTRNN_SLOWEST_UNIT 2e-9
    /* The part of its time beyond which a leader who waits for threads that lost their cores goes on alone. When it did
     * so after the first such wait, LSTM(512) over 7 sequences of 1000 steps took as long as on one thread. */
    #define FASTRNN_WAITING_TO_PART 0.25
    """
    double SLOWEST_UNIT "FASTRNN_SLOWEST_UNIT"
    double WAITING_TO_PART "FASTRNN_WAITING_TO_PART"

cdef enum:
    MAX_MEMBERS = 64
    # What the leader tells those who wait for it.
    NOT_YET = 0
    DONE = -1

cdef struct Team:
    int size
    signal_t arrived[MAX_MEMBERS]
    signal_t start               # NOT_YET, DONE, or one more than the step from which the team works together
    signal_t met[MAX_MEMBERS]    # twice the number of meetings, plus one from a leader who goes on alone after it

cdef struct Member:
    Team* team                   # NULL for a thread that works alone
    int number                   # 0 leads
    int size                     # who share the work now
    long meetings
    double began                 # when the team began to share, in seconds, and how long its leader has waited since
    double waited
    bint parting                 # whether the leader goes on alone after the next meeting


cdef inline void found_team(Team* team, int size) noexcept nogil:
    cdef int number
    team.size = size
    tell(&team.start, NOT_YET)
    for number in range(size):
        tell(&team.arrived[number], 0)
        tell(&team.met[number], 0)


cdef inline Member join_team(Team* team, int number) noexcept nogil:
    """A thread's part in a team; the leader works alone for now."""
    cdef Member member
    member.team = team
    member.number = number
    member.size = 1
    member.meetings = 0
    member.began = member.waited = 0
    member.parting = False
    return member


cdef inline void gather(Member* leader, Py_ssize_t step) noexcept nogil:
    """Have the others share the work from `step` on if they are all there."""
    cdef int number
    if leader.team == NULL or leader.size > 1 or leader.meetings:
        return
    for number in range(1, leader.team.size):
        if heard(&leader.team.arrived[number]) == 0:
            return
    leader.size = leader.team.size
    leader.began = omp_get_wtime()
    tell(&leader.team.start, step + 1)


cdef inline Py_ssize_t await_start(Member* member) noexcept nogil:
    """The step from which the team works together; below 0 if the leader has done everything alone."""
    cdef long turns = 0, start = NOT_YET
    tell(&member.team.arrived[member.number], 1)
    while start == NOT_YET:
        wait_a_little(turns)
        turns += 1
        start = heard(&member.team.start)
    if start == DONE:
        return -1
    member.size = member.team.size
    return start - 1


cdef inline void meet(Member* member) noexcept nogil:
    """Wait until all who share the work are here. Who parted have a size of 1, for the leader, or 0 afterwards."""
    cdef int number
    cdef long turns, value
    cdef double late = 0
    if member.size <= 1:
        return
    member.meetings += 1
    tell(&member.team.met[member.number], 2 * member.meetings + (1 if member.parting else 0))
    for number in range(member.size):
        if number == member.number:
            continue
        turns = 0
        value = heard(&member.team.met[number])
        while value // 2 < member.meetings:
            wait_a_little(turns)
            turns += 1
            if turns == TURNS_TO_WAIT and late == 0:
                late = omp_get_wtime()
            value = heard(&member.team.met[number])
        if number == 0 and value == 2 * member.meetings + 1:
            member.parting = True
    if member.parting:
        member.size = 1 if member.number == 0 else 0
    elif late and member.number == 0:
        member.waited += omp_get_wtime() - late
        member.parting = member.waited > WAITING_TO_PART * (omp_get_wtime() - member.began)


cdef inline void dismiss(Member* leader) noexcept nogil:
    """Let those go who still wait for a start."""
    if leader.team != NULL and leader.meetings == 0 and leader.size == 1:
        tell(&leader.team.start, DONE)


# -- Back-off -------------------------------------------------------------------------------------------------------

cdef struct Pace:
    # What was seen of threads that share some work. Calls that meet here may lose a measurement, and nothing else.
    double alone         # seconds that its unit takes one thread at most, as far as is known; 0 before any call
    double pause         # the time before which threads rest
    double rest          # how many times as long as they took they rested last, less for each good call since


cdef inline void keep_pace(Pace* pace, double start, double end, double cost, int n_threads) noexcept nogil:
    """Learn from work of `cost` units that `n_threads` threads shared from `start` to `end`, in seconds.

    Where other programs keep the processors busy, a call waits for its threads to be scheduled: 36000 us for one of
    160 us was seen. After work that took half as long again as on one thread they rest as long as it took, and four
    times as long as before when it happens again: a thread that was only asleep, or a cold cache, costs little, a busy
    machine little more. One thread takes no longer than all of them together.
    """
    cdef double seconds = end - start
    if pace.alone == 0:
        pace.alone = SLOWEST_UNIT
    if n_threads * seconds < pace.alone * cost:
        pace.alone = n_threads * seconds / cost
    elif seconds > 1.5 * pace.alone * cost:
        pace.rest = min(max(4 * pace.rest, 1.0), <double>LONGEST_REST)
        pace.pause = end + pace.rest * seconds
    else:
        pace.rest /= 2
