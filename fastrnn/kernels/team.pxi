# A team: threads that share the units of one recurrent layer, and meet after every phase of every step.
#
# The caller's thread leads. It starts alone, takes the others in once they have all arrived (a sleeping thread takes
# long to wake), and goes on alone when they let it wait too long: on a busy machine a thread can lose its core for
# milliseconds, and a team that waits for it at every step collapses. Meeting is one number of each thread, written by
# itself and read by the others.

from openmp cimport omp_get_wtime

cdef extern from "team.h" nogil:
    ctypedef struct signal_t:
        pass
    long heard(const signal_t* signal)
    long add_to(signal_t* signal, long value)
    void tell(signal_t* signal, long value)
    void wait_a_little(long turns)

cdef enum:
    MAX_MEMBERS = 64
    # What the leader tells those who wait for it.
    NOT_YET = 0
    DONE = -1

# Calls that run at once, from several threads of Python, share the threads that one may use: each of these starts
# helpers of its own, and helpers that wait for a processor hold up those who wait for them.
cdef signal_t callers        # how many calls run that are worth several threads


cdef inline bint begin_call(double cost) except -1:
    """Settle how many threads a call of so many multiply-adds may use; `end_call` takes what this returns."""
    global n_threads_allowed
    cdef int allowed
    if cost < COST_OF_A_THREAD:
        return False
    allowed = get_num_threads()
    n_threads_allowed = max(<int>(allowed // add_to(&callers, 1)), 1)
    return True


cdef inline void end_call(bint counted) noexcept:
    if counted:
        add_to(&callers, -1)


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


cdef void found_team(Team* team, int size) noexcept nogil:
    cdef int number
    team.size = size
    tell(&team.start, NOT_YET)
    for number in range(size):
        tell(&team.arrived[number], 0)
        tell(&team.met[number], 0)


cdef Member join_team(Team* team, int number) noexcept nogil:
    """A thread's part in a team; the leader works alone for now."""
    cdef Member member
    member.team = team
    member.number = number
    member.size = 1
    member.meetings = 0
    member.began = member.waited = 0
    member.parting = False
    return member


cdef void gather(Member* leader, Py_ssize_t step) noexcept nogil:
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


cdef Py_ssize_t await_start(Member* member) noexcept nogil:
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


cdef void meet(Member* member) noexcept nogil:
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


cdef void dismiss(Member* leader) noexcept nogil:
    """Let those go who still wait for a start."""
    if leader.team != NULL and leader.meetings == 0 and leader.size == 1:
        tell(&leader.team.start, DONE)
