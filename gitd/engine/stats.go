package engine

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// Stats is what a container has used since it was started, and the memory it has.
type Stats struct {
	CPU    time.Duration
	Memory int64 // without what the kernel would let go of first
}

// maxStats bounds what an engine says of one container.
const maxStats = 1 << 20

// Stats looks once what a container that runs has used.
func (e *Engine) Stats(ctx context.Context, id string) (s Stats, err error) {
	const doing = "measure the container"
	result, err := e.api.ContainerStats(ctx, id, client.ContainerStatsOptions{})
	if err != nil {
		return s, e.failure(ctx, doing, err)
	}
	defer result.Body.Close()
	var told container.StatsResponse
	if err := json.NewDecoder(io.LimitReader(result.Body, maxStats)).Decode(&told); err != nil {
		return s, e.failure(ctx, doing, err)
	}
	return statsOf(told)
}

// errNotMeasured is that a container does not run, or that its machine does not count.
var errNotMeasured = &Error{Reason: ReasonRefused, What: "the container engine does not say what the container uses"}

func statsOf(told container.StatsResponse) (s Stats, err error) {
	m := told.MemoryStats
	if told.CPUStats.CPUUsage.TotalUsage == 0 || m.Usage == 0 {
		return s, errNotMeasured
	}
	// Files that were read once and may be read again: as `docker stats` does.
	idle, ok := m.Stats["total_inactive_file"] // cgroup v1
	if !ok {
		idle = m.Stats["inactive_file"]
	}
	s.CPU = time.Duration(told.CPUStats.CPUUsage.TotalUsage)
	s.Memory = int64(m.Usage - min(idle, m.Usage))
	if s.CPU < 0 || s.Memory < 0 { // it counts what no machine has
		return Stats{}, errNotMeasured
	}
	return s, nil
}
