package proxy

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Access is one request that was answered.
type Access struct {
	At       time.Time
	Remote   string
	Method   string
	Host     string
	URI      string
	Proto    string
	Status   int
	Bytes    int64
	Duration time.Duration
	Instance string // that answered; "" for none
	Release  string
	Agent    string
	Referer  string
}

// String is a line of the combined log format, with the host in front, and how long it
// took and which instance answered behind.
func (a Access) String() string {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	return fmt.Sprintf("%s %s - - [%s] %q %d %d %q %q %.6f %s",
		or(a.Host), or(a.Remote), a.At.Format("02/Jan/2006:15:04:05 -0700"), a.Method+" "+a.URI+" "+a.Proto,
		a.Status, a.Bytes, or(a.Referer), or(a.Agent), a.Duration.Seconds(), or(a.Instance))
}

// bounds are the upper ends of the histogram's buckets.
var bounds = []time.Duration{
	time.Millisecond,
	5 * time.Millisecond,
	25 * time.Millisecond,
	100 * time.Millisecond,
	250 * time.Millisecond,
	time.Second,
	5 * time.Second,
	30 * time.Second,
}

// maxReleases bounds the releases of which a pool keeps counts.
const maxReleases = 8

// metrics are counts of one pool.
type metrics struct {
	mu       sync.Mutex
	flights  int
	retries  int
	releases map[string]*counts
	order    []string // of releases, the latest to come last
}

type counts struct {
	statuses map[int]int
	buckets  []int // one more than bounds
	seconds  float64
	bytes    int64
}

func (m *metrics) began() {
	m.mu.Lock()
	m.flights++
	m.mu.Unlock()
}

func (m *metrics) ended(a Access, tries int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flights--
	m.retries += max(0, tries-1)
	c := m.releases[a.Release]
	if c == nil {
		if m.releases == nil {
			m.releases = map[string]*counts{}
		}
		if len(m.order) == maxReleases {
			delete(m.releases, m.order[0])
			m.order = m.order[1:]
		}
		c = &counts{statuses: map[int]int{}, buckets: make([]int, len(bounds)+1)}
		m.releases[a.Release], m.order = c, append(m.order, a.Release)
	}
	c.statuses[a.Status]++
	i, _ := slices.BinarySearch(bounds, a.Duration)
	c.buckets[i]++
	c.seconds += a.Duration.Seconds()
	c.bytes += a.Bytes
}

// Measured is a pool with the labels of its metrics, such as `service="web"`.
type Measured struct {
	Labels string
	Pool   *Pool
}

// WriteMetrics writes what was counted in the text format of Prometheus.
func WriteMetrics(w io.Writer, pools []Measured) error {
	families := []struct {
		name, kind, help string
		write            func(out *strings.Builder, name, labels string, m *metrics)
	}{
		{"headgate_proxy_requests_total", "counter", "Requests answered, by the release that answered and the status.",
			writeRequests},
		{"headgate_proxy_request_duration_seconds", "histogram",
			"From the first byte of a request to the last of its answer.", writeDurations},
		{"headgate_proxy_response_bytes_total", "counter", "Bytes of bodies of answers.", writeBytes},
		{"headgate_proxy_retries_total", "counter",
			"Requests that were sent to another instance after one took no connection.", writeRetries},
		{"headgate_proxy_requests_in_flight", "gauge", "Requests that are being answered.", writeFlights},
	}
	var out strings.Builder
	for _, f := range families {
		fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		for _, p := range pools {
			p.Pool.metrics.mu.Lock()
			f.write(&out, f.name, p.Labels, &p.Pool.metrics)
			p.Pool.metrics.mu.Unlock()
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func writeRequests(out *strings.Builder, name, labels string, m *metrics) {
	for _, release := range m.order {
		c := m.releases[release]
		for _, status := range slices.Sorted(maps.Keys(c.statuses)) {
			fmt.Fprintf(out, "%s{%s,release=%q,code=\"%d\"} %d\n", name, labels, release, status, c.statuses[status])
		}
	}
}

func writeDurations(out *strings.Builder, name, labels string, m *metrics) {
	for _, release := range m.order {
		c, sum := m.releases[release], 0
		for i, n := range c.buckets {
			sum += n
			le := "+Inf"
			if i < len(bounds) {
				le = fmt.Sprint(bounds[i].Seconds())
			}
			fmt.Fprintf(out, "%s_bucket{%s,release=%q,le=%q} %d\n", name, labels, release, le, sum)
		}
		fmt.Fprintf(out, "%s_sum{%s,release=%q} %g\n%s_count{%s,release=%q} %d\n", name, labels, release, c.seconds, name,
			labels, release, sum)
	}
}

func writeBytes(out *strings.Builder, name, labels string, m *metrics) {
	for _, release := range m.order {
		fmt.Fprintf(out, "%s{%s,release=%q} %d\n", name, labels, release, m.releases[release].bytes)
	}
}

func writeRetries(out *strings.Builder, name, labels string, m *metrics) {
	fmt.Fprintf(out, "%s{%s} %d\n", name, labels, m.retries)
}

func writeFlights(out *strings.Builder, name, labels string, m *metrics) {
	fmt.Fprintf(out, "%s{%s} %d\n", name, labels, m.flights)
}
