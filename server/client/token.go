package client

import (
	"context"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TokenSource returns the token for a call that begins now: cached, or a new one. It
// must be safe for concurrent use. An error counts as the bus being away: the call is
// tried again.
type TokenSource func(context.Context) (string, error)

// StaticToken is always the same token.
func StaticToken(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// TokenFile is the token in a file, such as one that Kubernetes projects and renews.
// It is read at each call.
func TokenFile(path string) TokenSource {
	return func(context.Context) (string, error) {
		text, err := os.ReadFile(path) //nolint:gosec // the caller names the file
		if err != nil {
			return "", err
		}
		token := strings.TrimSpace(string(text))
		if token == "" {
			return "", fmt.Errorf("%s holds no token", path)
		}
		return token, nil
	}
}

// perCall puts the token on each call.
type perCall struct{ token TokenSource }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p perCall) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := p.token(ctx)
	if err != nil {
		// An error without a status would be UNAUTHENTICATED, which is for good.
		return nil, status.Errorf(codes.Unavailable, "no token: %v", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: within a mesh
// the connection is safe though gRPC does not know it.
func (perCall) RequireTransportSecurity() bool { return false }
