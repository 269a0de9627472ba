// Package aws reads what a buildspec names from AWS's own stores: Systems Manager's
// Parameter Store and Secrets Manager. Which names a repository's builds are given is for
// server.yaml; the credentials are those of the server's own environment, by the chain
// that all of AWS's tools have: variables, files, web identity, container and instance.
package aws

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/headgate-cd/headgate/hooks/build"
	"github.com/headgate-cd/headgate/hooks/build/buildspec"
)

// Stores are those of one account. The zero value works.
type Stores struct {
	mu      sync.Mutex
	configs map[string]aws.Config // by region as it was asked for
}

// valueTimeout is how long a value may take, tries included.
const valueTimeout = time.Minute

// Value is what a buildspec names, of a region; "" is that of the server's own settings
// for AWS. An error that everybody may read is a yamlfile.Problem.
func (s *Stores) Value(ctx context.Context, region string, of buildspec.Secret) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, valueTimeout)
	defer cancel()
	c, err := s.config(ctx, region)
	if err != nil {
		return "", err
	}
	if c.Region == "" {
		return "", build.Problem(of, fmt.Sprintf("%s is of AWS, and no region is set here", of.ID),
			"an administrator sets build: {aws: {region: …}} in server.yaml, or AWS_REGION for the server")
	}
	var value *string
	if of.Store == buildspec.ParameterStore {
		value, err = parameter(ctx, c, of)
	} else {
		value, err = secret(ctx, c, of)
	}
	if err != nil {
		return "", explain(of, c.Region, err)
	}
	if value == nil {
		return "", build.Problem(of, fmt.Sprintf("the secret %s in AWS is binary, which no variable can hold", of.ID),
			"keep it as text")
	}
	return *value, nil
}

func parameter(ctx context.Context, c aws.Config, of buildspec.Secret) (*string, error) {
	out, err := ssm.NewFromConfig(c).GetParameter(ctx, &ssm.GetParameterInput{
		Name:           aws.String(of.ID),
		WithDecryption: aws.Bool(true),
	})
	if err != nil || out.Parameter == nil {
		return nil, err
	}
	return out.Parameter.Value, nil
}

func secret(ctx context.Context, c aws.Config, of buildspec.Secret) (*string, error) {
	in := &secretsmanager.GetSecretValueInput{SecretId: aws.String(of.ID)}
	if of.Stage != "" {
		in.VersionStage = aws.String(of.Stage)
	}
	if of.Version != "" {
		in.VersionId = aws.String(of.Version)
	}
	out, err := secretsmanager.NewFromConfig(c).GetSecretValue(ctx, in)
	if err != nil {
		return nil, err
	}
	return out.SecretString, nil
}

// config is read once: credentials that end are renewed by it.
func (s *Stores) config(ctx context.Context, region string) (aws.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.configs[region]; ok {
		return c, nil
	}
	var options []func(*config.LoadOptions) error
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return c, fmt.Errorf("read the server's settings for AWS: %w", err)
	}
	if s.configs == nil {
		s.configs = map[string]aws.Config{}
	}
	s.configs[region] = c
	return c, nil
}

// explain says what whoever wrote the name can do about an error of AWS. What AWS itself
// says names the server's role, and is for its log.
func explain(of buildspec.Secret, region string, err error) error {
	var said smithy.APIError
	if !errors.As(err, &said) {
		return fmt.Errorf("ask AWS for %s: %w", of.ID, err)
	}
	switch said.ErrorCode() {
	case "ParameterNotFound", "ParameterVersionNotFound", "ResourceNotFoundException":
		return build.Problem(of, fmt.Sprintf("there is no %s for the variable %s in AWS, region %s", of.ID, of.Variable, region),
			"correct its name, or make it there")
	case "AccessDeniedException", "AccessDenied":
		return build.Problem(of, fmt.Sprintf("AWS does not let this server read %s", of.ID),
			"the administrator of the account allows it for the server's role: ssm:GetParameter, secretsmanager:GetSecretValue, kms:Decrypt")
	case "ValidationException", "InvalidParameterException", "InvalidKeyId", "DecryptionFailure", "InvalidRequestException":
		return build.Problem(of, fmt.Sprintf("AWS gives no value for %s: %s", of.ID, said.ErrorCode()), "correct its name, version or key")
	}
	return fmt.Errorf("ask AWS for %s: %w", of.ID, err)
}
