package rollout

import (
	"time"
)

// Counts are how many hosts have come how far.
type Counts struct {
	Hosts, Succeeded, Failed, Running, Pending, Offline, Skipped int
}

// Counts counts the hosts that the deployment is for.
func (s *State) Counts() (c Counts) {
	for _, h := range s.Hosts {
		if h.Joined {
			continue
		}
		c.Hosts++
		switch {
		case h.Attempt == Succeeded:
			c.Succeeded++
		case h.Attempt == Failed:
			c.Failed++
		case h.Attempt == Running:
			c.Running++
		case h.Attempt == Skipped:
			c.Skipped++
		case h.Health == Offline:
			c.Offline++
		default:
			c.Pending++
		}
	}
	return c
}

// Pace is how long a host takes, by those that have succeeded; 0 when nobody knows.
func (s *State) Pace() time.Duration {
	var all time.Duration
	n := 0
	for _, h := range s.Hosts {
		if h.Attempt == Succeeded && !h.Began.IsZero() && h.Ended.After(h.Began) {
			all, n = all+h.Ended.Sub(h.Began), n+1
		}
	}
	return all / time.Duration(max(1, n))
}

// ETA estimates how long the rest takes when a host takes so long; 0 when nothing
// is left. Zones are watched for as long as the configuration says.
func (s *State) ETA(host time.Duration) time.Duration {
	c := s.Counts()
	left := c.Running + c.Pending
	if left == 0 {
		return 0
	}
	atOnce := max(1, c.Running, c.Hosts-c.Failed-c.Offline-c.Skipped-s.Minimum)
	eta := time.Duration((left+atOnce-1)/atOnce) * host
	if s.Config.Zonal != nil {
		zones := map[string]bool{}
		for _, h := range s.Hosts {
			if h.Attempt == None || h.Attempt == Running {
				zones[h.Zone] = true
			}
		}
		eta += time.Duration(max(0, len(zones)-1)) * s.Config.Zonal.Each
	}
	return eta
}
