package rollout

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headgate-cd/headgate/reconciler/target/alarm"
)

// Minimum is how many hosts must stay healthy.
type Minimum struct {
	Percent bool // Value is of a hundred hosts, rounded up
	Value   int
	// OneLess is the rule of OneAtATime: all but one, so that one host alone is deployed
	// to as well. As 99 percent it would round up to all, and nothing could begin.
	OneLess bool
}

// Of is the number among so many hosts.
func (m Minimum) Of(hosts int) int {
	switch {
	case m.OneLess:
		return max(0, hosts-1)
	case m.Percent:
		return (hosts*m.Value + 99) / 100
	}
	return m.Value
}

// Config is a deployment configuration.
type Config struct {
	Name    string // for people
	Minimum Minimum
	Zonal   *Zonal // nil: all zones at once

	Alarms []alarm.Alarm // that stop it
	Bake   time.Duration // how long alarms are asked once the last host has succeeded
}

// Zonal deploys to one zone after the other.
type Zonal struct {
	First   time.Duration // how long the first zone is watched before the next one begins
	Each    time.Duration // the same of the others
	Minimum *Minimum      // of each zone; nil: of all hosts only
}

// The predefined configurations.
var (
	AllAtOnce   = Config{Name: "AllAtOnce"}
	HalfAtATime = Config{Name: "HalfAtATime", Minimum: Minimum{Percent: true, Value: 50}}
	OneAtATime  = Config{Name: "OneAtATime", Minimum: Minimum{OneLess: true}}
)

// ParseConfig reads the name of a predefined configuration, with or without
// "CodeDeployDefault.", or a minimum: "HOST_COUNT 3", "FLEET_PERCENT 75". "" is
// OneAtATime.
func ParseConfig(text string) (Config, error) {
	name := strings.TrimPrefix(text, "CodeDeployDefault.")
	for _, c := range []Config{AllAtOnce, HalfAtATime, OneAtATime} {
		if name == c.Name {
			return c, nil
		}
	}
	if text == "" {
		return OneAtATime, nil
	}
	kind, number, _ := strings.Cut(strings.ReplaceAll(text, "=", " "), " ")
	value, err := strconv.Atoi(strings.TrimSpace(number))
	switch {
	case kind == "HOST_COUNT" && err == nil && value >= 0:
		return Config{Name: text, Minimum: Minimum{Value: value}}, nil
	case kind == "HOST_COUNT":
		return Config{}, fmt.Errorf("HOST_COUNT takes a number of hosts that stay healthy, such as HOST_COUNT 2, not %q",
			number)
	case kind == "FLEET_PERCENT" && err == nil && value >= 0 && value <= 99:
		return Config{Name: text, Minimum: Minimum{Percent: true, Value: value}}, nil
	case kind == "FLEET_PERCENT":
		return Config{}, fmt.Errorf("FLEET_PERCENT takes 0 to 99, such as FLEET_PERCENT 75, not %q", number)
	}
	return Config{}, fmt.Errorf(
		"there is no deployment configuration %q; write OneAtATime, HalfAtATime, AllAtOnce, HOST_COUNT n or FLEET_PERCENT n", text)
}
