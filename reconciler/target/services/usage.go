package services

import (
	"bytes"
	"context"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/headgate-cd/headgate/gitd/engine"
	"github.com/headgate-cd/headgate/gitd/signal"
	"github.com/headgate-cd/headgate/reconciler/target"
)

const (
	// usageEvery is how often it is looked what an instance uses, at most.
	usageEvery = 10 * time.Second
	// usageCost bounds the part of one core that looking takes: one in so many. On a
	// machine with very many processes it is looked less often.
	usageCost = 200
	// statsTimeout is how long an engine may take to say what a container uses.
	statsTimeout = 2 * time.Second
)

// usedUntil is what an instance has used until a time, with all of it that has ended, and
// the memory that it has then.
type usedUntil struct {
	at     time.Time
	cpu    time.Duration
	memory int64
}

// usage is what an instance uses, from what it had used before and has now. It is nil
// where the two do not say that.
func usage(before, now usedUntil, limit int64) *target.Usage {
	passed := now.at.Sub(before.at)
	if before.at.IsZero() || passed <= 0 || now.cpu < before.cpu {
		return nil
	}
	return &target.Usage{
		CPU:         float64(now.cpu-before.cpu) / float64(passed),
		Memory:      now.memory,
		MemoryLimit: limit,
	}
}

// tells reports whether what an instance uses is news to those who were told it was: by a
// percent of a core or a MiB, and a tenth. Instances that hardly change are not reported
// again and again.
func tells(was, is *target.Usage) bool {
	if was == nil || is == nil {
		return was != is
	}
	differs := func(a, b, least float64) bool { return math.Abs(a-b) >= max(least, 0.1*max(a, b)) }
	return was.MemoryLimit != is.MemoryLimit || differs(was.CPU, is.CPU, 0.01) ||
		differs(float64(was.Memory), float64(is.Memory), 1<<20)
}

// meter looks what instances use, and tells their applications.
type meter struct {
	every time.Duration

	mu sync.Mutex
	of map[*instance]*metered
}

// metered is an instance that runs.
type metered struct {
	work workload
	last usedUntil     // the meter's own, as told is
	told *target.Usage // nil: that nobody knows
}

// add has it be looked what an instance uses, until remove is called.
func (m *meter) add(in *instance, w workload) (remove func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[in] = &metered{work: w}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.of, in)
	}
}

// run looks until ctx ends.
func (m *meter) run(ctx context.Context) {
	for wait := m.every; signal.Sleep(ctx, wait); {
		wait = max(m.every, m.processes()*usageCost)
		m.containers(ctx)
	}
}

// those are the instances that run in one way.
func those[W workload](m *meter) map[*instance]*metered {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[*instance]*metered{}
	for in, of := range m.of {
		if _, ok := of.work.(W); ok {
			all[in] = of
		}
	}
	return all
}

// processes looks what the processes of all instances use, and how long that took.
func (m *meter) processes() time.Duration {
	began := time.Now()
	all := those[*supervised](m)
	if len(all) == 0 {
		return 0
	}
	found := allProcesses()
	news := news{}
	for in, of := range all {
		p := of.work.(*supervised)
		now := usedUntil{at: began}
		var ok bool
		now.cpu, now.memory, ok = found.tree(p.started.First.PID)
		// One that has not ended by now had its number all the time.
		news.look(in, of, now, ok && p.process.alive(), 0)
	}
	news.post()
	return time.Since(began)
}

// containers looks what the containers of all instances use, one after another over half
// of the time until the next look.
func (m *meter) containers(ctx context.Context) {
	all := those[*contained](m)
	news := news{}
	away := false // the others need not be asked either
	for in, of := range all {
		c := of.work.(*contained)
		var now usedUntil
		var err error
		if !away {
			now, err = c.used(ctx)
			away = err != nil && engine.ReasonOf(err) != engine.ReasonRefused
			signal.Sleep(ctx, m.every/2/time.Duration(len(all)))
		}
		news.look(in, of, now, !away && err == nil, c.command.container.Memory)
	}
	if ctx.Err() == nil {
		news.post()
	}
}

// used is what the container has used until now.
func (c *contained) used(ctx context.Context) (usedUntil, error) {
	e, err := c.owner.open()
	if err != nil {
		return usedUntil{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s, err := e.Stats(ctx, c.started.Container)
	return usedUntil{time.Now(), s.CPU, s.Memory}, err
}

// news is what applications are to be told, all at once: a report of an application is
// about all of its instances.
type news map[*app]map[*instance]*target.Usage

// look takes up what an instance has used, or that nobody can say.
func (n news) look(in *instance, of *metered, now usedUntil, ok bool, limit int64) {
	var is *target.Usage
	if ok {
		is = usage(of.last, now, limit)
		of.last = now
	} else {
		of.last = usedUntil{}
	}
	if !tells(of.told, is) {
		return
	}
	of.told = is
	if n[in.app] == nil {
		n[in.app] = map[*instance]*target.Usage{}
	}
	n[in.app][in] = is
}

func (n news) post() {
	for a, all := range n {
		a.post(func() {
			for in, u := range all {
				in.usage = u
			}
		})
	}
}

// processTable is what there was to see of all processes of the machine.
type processTable struct {
	of       map[int]processStat
	children map[int][]int
}

// processStat is what the kernel says of a process.
type processStat struct {
	parent int
	cpu    time.Duration // with that of children that have ended
	memory int64
}

// allProcesses reads /proc once: whose children a process has is not to be had from
// every kernel, nor of each of its threads at one price.
func allProcesses() processTable {
	t := processTable{map[int]processStat{}, map[int][]int{}}
	proc, err := os.Open("/proc")
	if err != nil {
		return t
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // of what is not there nothing is known
	buffer := make([]byte, 4<<10)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := parseStat(readStat("/proc/"+name+"/stat", buffer)); ok {
			t.of[pid] = s
			t.children[s.parent] = append(t.children[s.parent], pid)
		}
	}
	return t
}

// readStat reads a file that is there at once and whole, without what package os does to
// wait for others.
func readStat(name string, buffer []byte) []byte {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil // it has ended
	}
	defer syscall.Close(fd)
	n, err := syscall.Read(fd, buffer)
	if err != nil {
		return nil
	}
	return buffer[:n]
}

// Places in /proc/PID/stat behind the name, which may hold anything.
const (
	statParent  = 1
	statCPU     = 11 // of four: its own and that of its ended children, in it and in the kernel
	statMemory  = 21 // in pages
	clockPeriod = time.Second / 100
)

// parseStat reads /proc/PID/stat.
func parseStat(data []byte) (s processStat, ok bool) {
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) <= statMemory {
		return s, false
	}
	number := func(at int) (n int64) {
		n, err := strconv.ParseInt(string(fields[at]), 10, 64)
		ok = ok && err == nil
		return n
	}
	ok = true
	s.parent = int(number(statParent))
	for i := range 4 {
		s.cpu += time.Duration(number(statCPU+i)) * clockPeriod
	}
	s.memory = number(statMemory) * int64(os.Getpagesize())
	return s, ok
}

// tree is what a process and all that descends from it have used, and their memory.
func (t processTable) tree(first int) (cpu time.Duration, memory int64, ok bool) {
	if _, ok := t.of[first]; !ok {
		return 0, 0, false
	}
	// What was read while processes came and went may go round in a circle.
	seen := map[int]bool{first: true}
	for next := []int{first}; len(next) > 0; {
		pid := next[len(next)-1]
		next = next[:len(next)-1]
		cpu += t.of[pid].cpu
		memory += t.of[pid].memory
		for _, child := range t.children[pid] {
			if !seen[child] {
				seen[child] = true
				next = append(next, child)
			}
		}
	}
	return cpu, memory, true
}
