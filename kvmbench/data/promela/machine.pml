/* Policy $name: every interleaving on $cpus CPUs, $tasks tasks, $ports ports, each port in a
   separate 64-bit word. Written by `kvmbench check --promela`; docs/check.md defines the events
   and explains why the numbers of maps need no counter. An assertion that fails is a leak, a
   denial, a fault or a null.

   spin -a FILE && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m10000000
   gcc -O2 -DSAFETY -DBFS ... && ./pan && spin -t -p FILE    finds and shows a shortest history */

#define CPUS $cpus
#define TASKS $tasks
#define EVERY ((1 << $ports) - 1)     /* port */
#define IDLE TASKS        /* no task: a record that never changes */

/* The owner of the number of a TSS's map: a task, or */
#define NUMBER_0 TASKS
#define OLD (TASKS + 1)   /* no task any more */

/* A task's place */
#define RETURNING 0       /* in the kernel, only exit_to_user to come */
#define USER 1
#define IN_RUN 2          /* inside KVM_RUN */
${places}
typedef Cpu {
  bit whole;              /* the TR limit takes the whole bitmap in */
  bit busy;               /* the TSS descriptor is of the busy type */
  bit stale;
  bit valid;              /* io_bitmap_base points at the bitmap, */
  bit all;                /* at a second one of all ports */
  bit iopl;               /* the hardware's level in user mode is 3 */
  bit guest;              /* a guest is loaded */
  unsigned tss : $ports;       /* bit p: the TSS's map lets port p through */
  unsigned map_max : 3;   /* words that the last sync copied */
  unsigned held : 4;      /* the owner of the TSS's map: a task, of those that share it the first,
                             NUMBER_0 or OLD */
  unsigned task : 3
}
typedef Task {
  byte place;
  bit tif;
  bit has_map;
  bit numbered;           /* the map's sequence number is not 0 */
  unsigned map : $ports;       /* bit p: the task's own map lets port p through */
  unsigned max : 3;       /* words */
  unsigned with : 6;      /* bit t: task t shares the map; 0 where no other does */
  unsigned owns : $ports;      /* bit p: the latest ioperm() of port p granted it */
  bit iopl;               /* its level is 3, */
  bit owns_iopl;          /* as its latest iopl() asked */
  unsigned port : 2;      /* ioperm()'s request, */
  bit on;
  bit first;              /* whether there was no map when it began, */
  unsigned before : 3     /* and 1 + max before its edit, 0 where none came yet */
}
Cpu cpu[CPUS];
Task task[TASKS + 1];

/* Scratch of one event, 0 between events: pan's -DBFS takes no hidden variables. */
byte cur;          /* the current task, prev of a switch */
byte nxt;          /* next of a switch */
byte each;
byte size;         /* words */
byte bits;
byte lets;
byte mine;
byte mask;         /* tasks */
byte low;          /* the first of them */
byte by_switch;
byte ended;

#define running(x) ($running)
#define is_new(t) (task[t].place == RETURNING && !task[t].tif && !task[t].has_map && !task[t].owns \
                   && !task[t].iopl && !task[t].owns_iopl)
#define at(c, where) (cpu[c].task != IDLE && task[cpu[c].task].place == where)

inline forget() {
  cur = 0; nxt = 0; each = 0; size = 0; bits = 0; lets = 0; mine = 0; mask = 0; low = 0; ended = 0
}
inline first_of(tasks) { low = 0; do :: ((tasks) >> low) & 1 -> break :: else -> low++ od }
inline owner(t) { if :: task[t].with -> first_of(task[t].with) :: else -> low = t fi }
inline size_larger(a, b) { if :: (a) > (b) -> size = a :: else -> size = b fi }
inline copy(c, ports) {  /* the first `size` words */
  bits = (1 << size) - 1;
  cpu[c].tss = (cpu[c].tss & ~bits) | ((ports) & bits)
}
inline ltr(c) {
  assert(!cpu[c].busy);   /* else a fault: #GP */
  cpu[c].whole = 1; cpu[c].busy = 1
}
inline reload(c) { cpu[c].busy = 0; ltr(c); cpu[c].stale = 0 }
inline need_map(t) {
  assert(!task[t].tif || task[t].has_map)   /* else a null: a step follows its pointer */
}
inline lose_number(t) {
  owner(t);
  for (each : 0 .. CPUS - 1) {
    if :: task[t].numbered && cpu[each].held == low -> cpu[each].held = OLD :: else fi
  }
}
inline leave_map(t) {         /* those that share its map, which keep the number */
  mask = task[t].with & ~(1 << t);
  first_of(mask);
  for (each : 0 .. CPUS - 1) {
    if :: task[t].numbered && cpu[each].held == t -> cpu[each].held = low :: else fi
  }
  for (each : 0 .. TASKS - 1) {
    if
    :: (mask >> each) & 1 -> task[each].with = ((mask & (mask - 1)) -> mask : 0)
    :: else
    fi
  }
  task[t].with = 0
}
inline drop_of(t) {
  if :: task[t].with -> leave_map(t) :: else -> lose_number(t) fi;
  task[t].has_map = 0; task[t].map = 0; task[t].max = 0; task[t].numbered = 0
}
inline drop_map() { drop_of(cur) }
inline give_map() {
  drop_of(nxt);
  task[nxt].has_map = 1; task[nxt].map = task[cur].map; task[nxt].max = task[cur].max
}
inline dup_map() {
  if :: task[cur].has_map -> give_map(); task[nxt].numbered = 1 :: else fi
}
inline share_map() {
  if
  :: task[cur].has_map && !((task[cur].with >> nxt) & 1) ->
     give_map();
     task[nxt].numbered = task[cur].numbered;
     mask = task[cur].with | (1 << cur) | (1 << nxt);
     first_of(mask);
     for (each : 0 .. TASKS - 1) {
       if :: (mask >> each) & 1 -> task[each].with = mask :: else fi
     }
     for (each : 0 .. CPUS - 1) {
       if
       :: cpu[each].held < TASKS && ((mask >> cpu[each].held) & 1) -> cpu[each].held = low
       :: else
       fi
     }
  :: else
  fi
}
inline unshare_map() {    /* the copy has a new number, which no TSS holds */
  if :: task[cur].with -> leave_map(cur); task[cur].numbered = 1 :: else fi
}
inline edit_map() {
  task[cur].has_map = 1;
  task[cur].before = task[cur].max + 1;
  if
  :: task[cur].on -> task[cur].map = task[cur].map | (1 << task[cur].port)
  :: else -> task[cur].map = task[cur].map & ~(1 << task[cur].port)
  fi;
  task[cur].max = 1;        /* word, even where no port is open */
  do :: (task[cur].map >> task[cur].max) > 0 -> task[cur].max++ :: else -> break od;
  lose_number(cur);
  task[cur].numbered = 1;
  for (each : 0 .. TASKS - 1) {     /* edited in place: for all that share it */
    if
    :: (task[cur].with >> each) & 1 ->
       task[each].map = task[cur].map; task[each].max = task[cur].max; task[each].numbered = 1
    :: else
    fi
  }
}
inline load_map(c) {
  need_map(cur);
  size_larger(task[cur].before, task[cur].max + 1);
  size--;                 /* the larger of max before the edit and now */
  copy(c, task[cur].map)
}
inline copy_map(c) {
  need_map(nxt);
  size_larger(task[cur].tif * task[cur].max, task[nxt].max);
  copy(c, task[nxt].map)
}
inline wipe(c) { size = task[cur].max; copy(c, 0) }
inline sync_map(c) {
  need_map(cur);
  owner(cur);
  if
  :: task[cur].numbered && cpu[c].held == low -> skip
  :: !task[cur].numbered && cpu[c].held == NUMBER_0 -> skip
  :: else ->
     size_larger(cpu[c].map_max, task[cur].max);
     copy(c, task[cur].map);
     cpu[c].map_max = task[cur].max;
     if :: task[cur].numbered -> cpu[c].held = low :: else -> cpu[c].held = NUMBER_0 fi
  fi
}

/* Whenever a task is in user mode, the hardware lets through exactly its own ports. Only an event
   that brings the task there need look: no event of another CPU changes this comparison. */
inline look(c) {
  lets = cpu[c].whole * cpu[c].valid * cpu[c].tss;
  if :: cpu[c].iopl || (cpu[c].whole && cpu[c].all) -> lets = EVERY :: else fi;
  mine = (task[cur].owns_iopl -> EVERY : task[cur].owns);
  assert(!(lets & ~mine));   /* else a leak */
  assert(!(mine & ~lets))    /* else a denial */
}

inline end_task(c) {      /* it may run again, as a new one */
  task[cur].tif = 0; task[cur].owns = 0; task[cur].iopl = 0; task[cur].owns_iopl = 0; drop_map();
  task[cur].place = RETURNING;
  nxt = IDLE; switch_to(c)
}
/* The policy: a hook with the current task in cur, a switch's next in nxt */
${policy}
inline leave_guest(c) { cpu[c].whole = 0; hook_vm_exit(c) }
inline interrupt(c) {
  if
  :: cpu[c].guest ->
     leave_guest(c); cpu[c].guest = 0; by_switch = 1; hook_vcpu_put(c); by_switch = 0
  :: else
  fi
}
inline switch_to(c) {
  hook_switch(c);
  if :: cur != IDLE && task[cur].place == USER -> task[cur].place = RETURNING :: else fi;
  cpu[c].task = nxt
}

/* Events */
inline schedule(c, next) { cur = cpu[c].task; nxt = next; interrupt(c); switch_to(c) }
inline to_user(c) { cur = cpu[c].task; hook_exit_to_user(c); task[cur].place = USER; look(c) }
inline kvm_run(c) { task[cpu[c].task].place = IN_RUN }
inline enter(c) { cpu[c].guest = 1 }
inline vm_exit(c) { cur = cpu[c].task; leave_guest(c) }
inline leave(c) { cur = cpu[c].task; leave_guest(c); cpu[c].guest = 0; put_0(c) }
inline return_unentered(c) { task[cpu[c].task].place = RETURNING }
inline task_exit(c) { cur = cpu[c].task; interrupt(c); hook_task_exit(c); end_task(c) }
inline begin_exit(c) {    /* in place of task_exit where the hook can be preempted */
  cur = cpu[c].task; interrupt(c); task[cur].owns = 0; task[cur].owns_iopl = 0;
  task[cur].place = EXIT_0
}
inline fork(c, child) {
  cur = cpu[c].task; nxt = child;
  hook_fork(c);
  task[nxt].owns = task[cur].owns; task[nxt].owns_iopl = task[cur].owns_iopl;
  task[cur].place = RETURNING
}
inline fork_fails(c, child) {
  cur = cpu[c].task; nxt = child;
  hook_fork(c); hook_fork_failed(c);
  task[nxt].tif = 0; task[nxt].iopl = 0; drop_of(nxt);
  task[cur].place = RETURNING
}
inline call_iopl(c, is_3) {
  cur = cpu[c].task;
  task[cur].on = is_3; hook_iopl(c); task[cur].on = 0;
  task[cur].owns_iopl = is_3; task[cur].place = RETURNING
}
inline call_exec(c) {
  cur = cpu[c].task; hook_exec(c); task[cur].owns_iopl = 0; task[cur].place = RETURNING
}

active proctype machine() {
  d_step {
${start}    forget()
  }
  do
${events}  od
}
