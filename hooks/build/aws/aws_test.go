package aws

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// TestValues asks a server that answers as AWS's documentation says: JSON by the name of
// the operation, signed for the service and the region.
func TestValues(t *testing.T) {
	type request struct {
		Name, SecretId, VersionStage, VersionId string
		WithDecryption                          bool
	}
	answers := map[request]string{
		{Name: "/hello/token", WithDecryption: true}:                   `{"Parameter": {"Name": "/hello/token", "Type": "SecureString", "Value": "p4rameter"}}`,
		{SecretId: "hello/db"}:                                         `{"Name": "hello/db", "SecretString": "{\"user\": \"ada\"}"}`,
		{SecretId: "hello/db", VersionStage: "AWSPREVIOUS"}:            `{"SecretString": "before"}`,
		{SecretId: "hello/db", VersionId: "v-1"}:                       `{"SecretString": "first"}`,
		{SecretId: "hello/bytes"}:                                      `{"SecretBinary": "AAEC"}`,
		{Name: "/hello/gone", WithDecryption: true}:                    `!ParameterNotFound`,
		{SecretId: "hello/gone"}:                                       `!ResourceNotFoundException`,
		{SecretId: "hello/kept"}:                                       `!AccessDeniedException`,
		{Name: "/hello/broken", WithDecryption: true}:                  `!InternalThing`,
		{SecretId: "arn:aws:secretsmanager:eu-north-1:1:secret:a-b12"}: `{"SecretString": "by its ARN"}`,
	}
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q request
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		service, operation := "ssm", "AmazonSSM.GetParameter"
		if q.SecretId != "" {
			service, operation = "secretsmanager", "secretsmanager.GetSecretValue"
		}
		signed := r.Header.Get("Authorization")
		if got := r.Header.Get("X-Amz-Target"); got != operation || !strings.HasPrefix(signed, "AWS4-HMAC-SHA256 Credential=AKID/") ||
			!strings.Contains(signed, "/eu-north-1/"+service+"/aws4_request") {
			t.Errorf("%+v is asked by %s, signed %s", q, got, signed)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answer, ok := answers[q]
		if code, no := strings.CutPrefix(answer, "!"); no || !ok {
			w.WriteHeader(http.StatusBadRequest)
			answer = `{"__type": "` + code + `", "message": "User: arn:aws:iam::1:role/inner may not"}`
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer aws.Close()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID":           "AKID",
		"AWS_SECRET_ACCESS_KEY":       "SECRET",
		"AWS_SESSION_TOKEN":           "",
		"AWS_REGION":                  "",
		"AWS_DEFAULT_REGION":          "",
		"AWS_PROFILE":                 "",
		"AWS_CONFIG_FILE":             "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_ENDPOINT_URL":            aws.URL,
		"AWS_EC2_METADATA_DISABLED":   "true",
	} {
		t.Setenv(name, value)
	}
	var s Stores
	const parameters, secrets = buildspec.ParameterStore, buildspec.SecretsManager
	for _, c := range []struct {
		of            buildspec.Secret
		want, problem string
	}{
		{buildspec.Secret{Store: parameters, ID: "/hello/token"}, "p4rameter", ""},
		{buildspec.Secret{Store: secrets, ID: "hello/db"}, `{"user": "ada"}`, ""},
		{buildspec.Secret{Store: secrets, ID: "hello/db", Stage: "AWSPREVIOUS"}, "before", ""},
		{buildspec.Secret{Store: secrets, ID: "hello/db", Version: "v-1"}, "first", ""},
		{buildspec.Secret{Store: secrets, ID: "arn:aws:secretsmanager:eu-north-1:1:secret:a-b12"}, "by its ARN", ""},
		{buildspec.Secret{Store: secrets, ID: "hello/bytes"}, "", "is binary"},
		{buildspec.Secret{Store: parameters, ID: "/hello/gone"}, "", "there is no /hello/gone"},
		{buildspec.Secret{Store: secrets, ID: "hello/gone"}, "", "there is no hello/gone"},
		{buildspec.Secret{Store: secrets, ID: "hello/kept"}, "", "does not let this server read hello/kept"},
	} {
		got, err := s.Value(t.Context(), "eu-north-1", c.of)
		problems, known := yamlfile.ProblemsIn(err)
		if got != c.want || (c.problem != "") != (err != nil) ||
			err != nil && (!known || !strings.Contains(problems[0].What, c.problem) || strings.Contains(err.Error(), "role/inner")) {
			t.Errorf("%+v: %q, %v", c.of, got, err)
		}
	}
	if _, err := s.Value(t.Context(), "eu-north-1", buildspec.Secret{Store: parameters, ID: "/hello/broken"}); err == nil {
		t.Error("what AWS does not say is taken for a value")
	} else if _, known := yamlfile.ProblemsIn(err); known {
		t.Errorf("AWS's own trouble is the author's: %v", err)
	}
	if _, err := s.Value(t.Context(), "", buildspec.Secret{Store: parameters, ID: "/hello/token"}); err == nil ||
		!strings.Contains(err.Error(), "no region is set") {
		t.Errorf("without a region: %v", err)
	}
}
