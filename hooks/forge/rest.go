package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// rest calls an API of JSON. Gitea and GitLab are asked eight things each: their
// own clients would add 4 MB to the program, and read answers of any length.
type rest struct {
	client *http.Client
	base   *url.URL
}

// statusError is an answer that is not a success.
type statusError struct {
	status int
	said   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the forge answers %d: %s", e.status, e.said)
}

// do calls once: in is sent, and what comes is read into out, if they are not nil.
// The path is escaped where it has to be.
func (c *rest) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	u, err := url.Parse(c.base.String() + path)
	if err != nil {
		return err
	}
	u.RawQuery = query.Encode()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, path, ErrNotFound)
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %w", method, path,
			&statusError{resp.StatusCode, strings.Join(strings.Fields(cut(string(data), 300)), " ")})
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s %s: the forge's answer: %w", method, path, err)
	}
	return nil
}

// pages reads a list page by page, until one is empty, or most is reached. It
// stands for what Link headers say, which a proxy may have rewritten.
func pages[T any](ctx context.Context, c *rest, path string, query url.Values, most int, add func(T) error) error {
	if query == nil {
		query = url.Values{}
	}
	for page, n := 1, 0; n < most; page++ {
		query.Set("page", strconv.Itoa(page))
		query.Set("limit", strconv.Itoa(pageSize))    // Gitea
		query.Set("per_page", strconv.Itoa(pageSize)) // GitLab
		var list []T
		if err := c.do(ctx, http.MethodGet, path, query, nil, &list); err != nil {
			return err
		}
		for _, one := range list {
			if err := add(one); err != nil {
				return err
			}
		}
		if n += len(list); len(list) == 0 {
			return nil
		}
	}
	return nil
}

// statusIs reports whether a forge answered with one of these.
func statusIs(err error, status ...int) bool {
	var e *statusError
	if !errors.As(err, &e) {
		return false
	}
	for _, s := range status {
		if e.status == s {
			return true
		}
	}
	return false
}
