package policies

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Record is one decision: all that is needed to evaluate the same query again.
type Record struct {
	Query   string          `json:"question"` // push, land, promote, converge
	Input   json.RawMessage `json:"input"`    // keys in order of name
	Answer  Answer          `json:"answer"`
	Printed string          `json:"printed,omitempty"` // by print() in the policies, capped
	Engine  string          `json:"engine"`            // "opa 1.22.2"
	Took    time.Duration   `json:"took_ns"`
}

// JSON is the record as it is kept. Records of the same decision differ in the
// moment of the query and the time it took, and in nothing else.
func (r Record) JSON() []byte {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		// Input was made by json.Marshal, and Answer has no field that can fail.
		panic(err)
	}
	return data
}

// Digest names the decision: query, input and answer, the policy's digest
// included. A query that is evaluated again with the same input and answer is the
// same decision, so the moment and the time it took do not count.
func (r Record) Digest() string {
	var input map[string]any
	if json.Unmarshal(r.Input, &input) == nil {
		delete(input, "now")
	}
	data, err := json.Marshal([]any{r.Query, input, r.Answer})
	if err != nil {
		panic(err) // as in JSON
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Replay evaluates a recorded query again, at its recorded time.
func (e *Engine) Replay(ctx context.Context, r Record) (Answer, error) {
	var at struct {
		Now time.Time `json:"now"`
	}
	if err := json.Unmarshal(r.Input, &at); err != nil {
		return Answer{}, fmt.Errorf("replay: %w", err)
	}
	if _, ok := inputs[r.Query]; !ok {
		return Answer{}, fmt.Errorf("replay: unknown query %q", r.Query)
	}
	a, _ := e.decide(ctx, r.Query, at.Now, r.Input)
	return a, nil
}
