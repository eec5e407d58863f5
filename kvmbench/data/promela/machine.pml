/* Policy $name: every interleaving on $cpus CPUs, $tasks tasks, $ports ports, each port in a
   separate 64-bit word. Written by `kvmbench check --promela`; docs/check.md defines the events
   and explains why the numbers of maps need no counter. An assertion that fails is a leak, a
   denial, a fault or a null.

   spin -a FILE && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m10000000
   gcc -O2 -DSAFETY -DBFS ... && ./pan && spin -t -p FILE    finds and shows a shortest history */

#define CPUS $cpus
#define TASKS $tasks
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
  bit valid;              /* io_bitmap_base points at the bitmap */
  bit guest;              /* a guest is loaded */
  unsigned tss : $ports;       /* bit p: the TSS's map lets port p through */
  unsigned map_max : 3;   /* words that the last sync copied */
  unsigned held : 4;      /* the owner of the TSS's map: a task, NUMBER_0 or OLD */
  unsigned task : 3
}
typedef Task {
  byte place;
  bit tif;
  bit has_map;
  bit numbered;           /* the map's sequence number is not 0 */
  unsigned map : $ports;       /* bit p: the task's own map lets port p through */
  unsigned max : 3;       /* words */
  unsigned owns : $ports;      /* bit p: the latest ioperm() of port p granted it */
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
byte by_switch;
byte ended;

#define running(x) ($running)
#define at(c, where) (cpu[c].task != IDLE && task[cpu[c].task].place == where)

inline forget() { cur = 0; nxt = 0; each = 0; size = 0; bits = 0; lets = 0; ended = 0 }
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
inline new_number(is_number) {
  for (each : 0 .. CPUS - 1) {
    if :: task[cur].numbered && cpu[each].held == cur -> cpu[each].held = OLD :: else fi
  }
  task[cur].numbered = is_number
}
inline drop_map() { task[cur].has_map = 0; task[cur].map = 0; task[cur].max = 0; new_number(0) }
inline edit_map() {
  task[cur].has_map = 1;
  task[cur].before = task[cur].max + 1;
  if
  :: task[cur].on -> task[cur].map = task[cur].map | (1 << task[cur].port)
  :: else -> task[cur].map = task[cur].map & ~(1 << task[cur].port)
  fi;
  task[cur].max = 1;        /* word, even where no port is open */
  do :: (task[cur].map >> task[cur].max) > 0 -> task[cur].max++ :: else -> break od;
  new_number(1)
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
  if
  :: task[cur].numbered && cpu[c].held == cur -> skip
  :: !task[cur].numbered && cpu[c].held == NUMBER_0 -> skip
  :: else ->
     size_larger(cpu[c].map_max, task[cur].max);
     copy(c, task[cur].map);
     cpu[c].map_max = task[cur].max;
     if :: task[cur].numbered -> cpu[c].held = cur :: else -> cpu[c].held = NUMBER_0 fi
  fi
}

/* Whenever a task is in user mode, the hardware lets through exactly its own ports. Only an event
   that brings the task there need look: no event of another CPU changes this comparison. */
inline look(c) {
  lets = cpu[c].whole * cpu[c].valid * cpu[c].tss;
  assert(!(lets & ~task[cur].owns));   /* else a leak */
  assert(!(task[cur].owns & ~lets))    /* else a denial */
}

inline end_task(c) {      /* it may run again, as a new one */
  task[cur].tif = 0; task[cur].owns = 0; drop_map();
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
  cur = cpu[c].task; interrupt(c); task[cur].owns = 0; task[cur].place = EXIT_0
}

active proctype machine() {
  d_step {
${start}    forget()
  }
  do
${events}  od
}
