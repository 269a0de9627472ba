package function

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"go.uber.org/goleak"
)

// TestMain lets the test binary be the function under test, too: it is the bootstrap of
// the artifacts, built with the ordinary github.com/aws/aws-lambda-go.
func TestMain(m *testing.M) {
	if api := os.Getenv("AWS_LAMBDA_RUNTIME_API"); api != "" {
		program(api)
		os.Exit(0)
	}
	if dir := os.Getenv(journeyVariable); dir != "" {
		os.Exit(journey(dir))
	}
	goleak.VerifyTestMain(m)
}

// program is what the bootstrap does, by the variable DO.
func program(api string) {
	switch os.Getenv("DO") {
	case "exit":
		fmt.Println("no database")
		os.Exit(3)
	case "never asks":
		time.Sleep(time.Hour) // a select of nothing is found to be a deadlock by a program without cgo
	case "ignores SIGTERM":
		signal.Ignore(syscall.SIGTERM)
	case "init error":
		post(api, "init/error", `{"errorType":"NoDatabase","errorMessage":"there is no database"}`)
		time.Sleep(time.Hour)
	case "raw":
		raw(api)
	case "hook":
		lambda.Start(hook)
	case "stream":
		lambda.Start(streamed2)
	case "request":
		lambda.Start(func(_ context.Context, r events.LambdaFunctionURLRequest) (any, error) { return request2(r) })
	}
	lambda.Start(hello)
}

// hello answers what it is told to do in the event.
func hello(ctx context.Context, in struct{ Do, Text string }) (any, error) {
	about, _ := lambdacontext.FromContext(ctx)
	switch in.Do {
	case "fail":
		return nil, errors.New("it does not work")
	case "panic":
		panic("it is broken")
	case "exit":
		os.Exit(7)
	case "hang":
		time.Sleep(time.Hour)
	case "get":
		resp, err := http.Get(in.Text)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
	case "print":
		fmt.Println(in.Text)
	case "flood":
		line := strings.Repeat("x", 1<<20) + "\n"
		for range 100 {
			fmt.Print(line)
		}
	case "large":
		return strings.Repeat("x", maxPayload+1), nil
	case "write":
		return map[string]string{
			"tmp":  fmt.Sprint(os.WriteFile("/tmp/x", nil, 0o600)),
			"task": fmt.Sprint(os.WriteFile("/var/task/x", nil, 0o600)),
			"usr":  fmt.Sprint(os.WriteFile("/usr/x", nil, 0o600)),
		}, nil
	}
	deadline, _ := ctx.Deadline()
	dir, _ := os.Getwd()
	return map[string]any{
		"text":     in.Text,
		"greeting": os.Getenv("GREETING"),
		"version":  os.Getenv("AWS_LAMBDA_FUNCTION_VERSION"),
		"name":     os.Getenv("AWS_LAMBDA_FUNCTION_NAME"),
		"memory":   os.Getenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
		"handler":  os.Getenv("_HANDLER"),
		"root":     os.Getenv("LAMBDA_TASK_ROOT"),
		"dir":      dir,
		"arn":      about.InvokedFunctionArn,
		"request":  about.AwsRequestID,
		"left":     time.Until(deadline) > 0,
		"pid":      os.Getpid(),
		"started":  started.UnixNano(),
	}, nil
}

var started = time.Now()

// hook reports as the variable REPORT says.
func hook(_ context.Context, in struct{ DeploymentId, LifecycleEventHookExecutionId string }) error {
	report := os.Getenv("REPORT")
	switch report {
	case "error":
		return errors.New("it does not validate")
	case "none":
		return nil
	case "elsewhere":
		in.DeploymentId = "d-another"
		report = "Succeeded"
	}
	body, err := json.Marshal(map[string]string{
		"deploymentId":                  in.DeploymentId,
		"lifecycleEventHookExecutionId": in.LifecycleEventHookExecutionId,
		"status":                        report,
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, os.Getenv("AWS_ENDPOINT_URL_CODEDEPLOY"), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Amz-Target", "CodeDeploy_20141006.PutLifecycleEventHookExecutionStatus")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %s %v", resp.StatusCode, said, err)
	}
	return nil
}

// request2 answers requests of a function URL by their path.
func request2(r events.LambdaFunctionURLRequest) (any, error) {
	switch r.RawPath {
	case "/text":
		return "hello", nil
	case "/object":
		return map[string]int{"n": 1}, nil
	case "/fails":
		return nil, errors.New("it does not work")
	case "/whole":
		return events.LambdaFunctionURLResponse{
			StatusCode: http.StatusTeapot,
			Headers: map[string]string{"Content-Type": "image/png", "X-Own": "yes", "content-length": "70",
				"Transfer-Encoding": "odd"},
			Cookies:         []string{"a=1", "b=2; Secure"},
			Body:            base64.StdEncoding.EncodeToString([]byte{0, 1, 254}),
			IsBase64Encoded: true,
		}, nil
	case "/odd":
		return map[string]int{"statusCode": 9999}, nil
	}
	return r, nil
}

// streamed2 answers requests of a function URL in two parts.
func streamed2(_ context.Context,
	r events.LambdaFunctionURLRequest) (*events.LambdaFunctionURLStreamingResponse, error) {
	reader, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "first")
		if r.RawPath == "/breaks" {
			_ = w.CloseWithError(errors.New("it broke off"))
			return
		}
		if next := r.QueryStringParameters["next"]; next != "" {
			// The second part comes when the first has arrived.
			if resp, err := http.Get(next); err == nil {
				resp.Body.Close()
			}
		}
		_, _ = io.WriteString(w, " second")
		_ = w.Close()
	}()
	return &events.LambdaFunctionURLStreamingResponse{
		StatusCode: http.StatusTeapot,
		Headers:    map[string]string{"Content-Type": "text/plain", "X-Own": "yes"},
		Cookies:    []string{"a=1", "b=2"},
		Body:       reader,
	}, nil
}

func post(api, path, body string) int {
	resp, err := http.Post("http://"+api+"/2018-06-01/runtime/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		os.Exit(9)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// raw speaks the runtime API by hand, and not as it should: the event says how.
func raw(api string) {
	for {
		resp, err := http.Get("http://" + api + "/2018-06-01/runtime/invocation/next")
		if err != nil {
			os.Exit(9)
		}
		event, _ := io.ReadAll(resp.Body)
		id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
		switch {
		case strings.Contains(string(event), "twice"):
			first := post(api, "invocation/"+id+"/response", `"first"`)
			second := post(api, "invocation/"+id+"/response", `"second"`)
			fmt.Println("answers:", first, second)
		case strings.Contains(string(event), "another"):
			wrong := post(api, "invocation/00000000-0000-4000-8000-000000000000/response", `"wrong"`)
			post(api, "invocation/"+id+"/response", fmt.Sprintf(`{"another": %d}`, wrong))
		case strings.Contains(string(event), "next"):
			again, err := http.Get("http://" + api + "/2018-06-01/runtime/invocation/next")
			if err != nil {
				os.Exit(9)
			}
			post(api, "invocation/"+id+"/response", fmt.Sprintf(`{"next": %d}`, again.StatusCode))
		default:
			post(api, "invocation/"+id+"/error", `{"errorType":"Odd","errorMessage":"what is that","stackTrace":[]}`)
		}
	}
}
