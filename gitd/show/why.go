package show

// Why answers "why not" for a change, an environment or a commit.
type Why struct {
	Answer string   `json:"answer"` // one sentence, first line of the command
	State  State    `json:"state"`
	Checks []Check  `json:"checks,omitempty"`
	Facts  []Fact   `json:"facts,omitempty"`
	Next   []string `json:"next,omitempty"` // commands to paste
}

// Fact is one labelled line.
type Fact struct {
	Label string `json:"label"`
	Text  string `json:"text"`
}
