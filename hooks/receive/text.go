package receive

import "github.com/headgate-cd/headgate/gitd/terminal"

// usualWidth is where a column at the right of a short line ends, counting from
// behind the "remote: " that git puts in front.
const usualWidth = 64

// oneLine is text behind a prefix. Lines are never broken: whoever reads one can
// copy a path or a hash out of it, and the terminal knows its own width.
func oneLine(prefix, text string) []string {
	return []string{prefix + terminal.Plain(text)}
}
