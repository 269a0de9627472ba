package target

import "context"

// Follow yields the lines that more finds: those that there are and, when followed,
// those that have come whenever something was printed, until ctx is done, the reader
// has enough, or more fails.
func Follow(
	ctx context.Context,
	followed bool,
	printed <-chan struct{},
	yield func(LogLine, error) bool,
	more func() ([]LogLine, error),
) {
	for {
		lines, err := more()
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		for _, line := range lines {
			if !yield(line, nil) {
				return
			}
		}
		if !followed {
			return
		}

		select {
		case <-ctx.Done():
			return
		case <-printed:
		}
	}
}
