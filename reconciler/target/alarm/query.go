package alarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/gitd/terminal"
)

// Query is what an alarm asks, and whom.
type Query struct {
	Prometheus string // its address
	Query      string // PromQL
}

// asking is what questions are asked with. It follows nobody elsewhere.
var asking = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Ask asks it for the alarm of a name. above says on which side of its bound that fires.
func (q Query) Ask(ctx context.Context, name string, above bool) Measured {
	m := Measured{Name: name}
	var err error
	if m.Value, m.None, err = q.value(ctx, above); err != nil {
		m.Err = err.Error()
	}
	return m
}

// value is what Prometheus answers: of several series the value that is furthest beyond.
// none says that there is no series.
func (q Query) value(ctx context.Context, above bool) (value float64, none bool, err error) {
	address := strings.TrimSuffix(q.Prometheus, "/") + "/api/v1/query?" + url.Values{"query": {q.Query}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, false, err
	}
	resp, err := asking.Do(req)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // the address, with the query, says nothing to people
		}
		return 0, false, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   struct {
			Type   string          `json:"resultType"`
			Result json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&answer); err != nil || answer.Status == "" {
		return 0, false, fmt.Errorf("%s answered %d, and not as Prometheus does", q.Prometheus, resp.StatusCode)
	}
	if answer.Status != "success" {
		return 0, false, errors.New(terminal.Plain(answer.Error[:min(len(answer.Error), 300)]))
	}
	type sample [2]any // time and value
	var samples []sample
	switch answer.Data.Type {
	case "scalar":
		samples = make([]sample, 1)
		err = json.Unmarshal(answer.Data.Result, &samples[0])
	case "vector":
		var series []struct {
			Value sample `json:"value"`
		}
		err = json.Unmarshal(answer.Data.Result, &series)
		for _, s := range series {
			samples = append(samples, s.Value)
		}
	default:
		return 0, false, fmt.Errorf("the query gives a %s; an alarm needs a vector or a scalar",
			terminal.Plain(answer.Data.Type))
	}
	if err != nil {
		return 0, false, err
	}
	none = true
	for _, s := range samples {
		text, _ := s[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, false, fmt.Errorf("value %q", terminal.Plain(text))
		}
		if math.IsNaN(v) {
			continue // nothing was divided by nothing
		}
		if none || above && v > value || !above && v < value {
			value, none = v, false
		}
	}
	return value, none, nil
}
