package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eco2-team/eventbus/router/event"
)

// lookEvery is how long AUTH_KEY is believed not to have changed.
const lookEvery = time.Second

// keyFile is AUTH_KEY, read again when it changes, so that a key is replaced without
// a restart, as certificates are (router/certs). Tokens of the key before are then
// refused: where both are to be good for a while, use AUTH_JWKS_URL. It is safe for
// concurrent use.
type keyFile struct {
	path string
	// algs are AUTH_ALGORITHMS; empty: that of the key.
	algs []string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	looked time.Time
	failed bool // the last reading; said once
	text   []byte
	key    *fileKey
}

// fileKey is what was in the file, and the one algorithm that goes with it.
type fileKey struct {
	key any
	alg string
}

func newKeyFile(c Config, log *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: c.Key, algs: c.Algorithms, log: log, looked: time.Now()}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// load replaces the key or, on an error, nothing: a new one may be half written.
func (f *keyFile) load() error {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("AUTH_KEY: %w", err)
	}
	if f.key != nil && bytes.Equal(text, f.text) {
		return nil
	}
	key, alg, err := parseKey(text)
	if err != nil {
		return fmt.Errorf("AUTH_KEY: %s: %w", f.path, err)
	}
	if len(f.algs) > 0 && !slices.Equal(f.algs, []string{alg}) {
		return event.Refuse(event.Violate("AUTH_ALGORITHMS", fmt.Sprint(f.algs), "must be "+alg+" with the key in AUTH_KEY"))
	}
	if f.key != nil {
		f.log.Info("AUTH_KEY was read again", "file", f.path, "algorithm", alg)
	}
	f.text, f.key = text, &fileKey{key, alg}
	return nil
}

// current is what the file holds, or held when it last was good.
func (f *keyFile) current() *fileKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		err := f.load()
		if err != nil && !f.failed {
			f.log.Error("AUTH_KEY cannot be used; the key read before stays", "error", err)
		}
		f.failed = err != nil
	}
	return f.key
}

// find is a keys. The algorithm is pinned to the key's: a public key must not pass
// for a secret.
func (f *keyFile) find(_ context.Context, t *jwt.Token) (any, error) {
	k := f.current()
	if t.Method.Alg() != k.alg {
		return nil, jwt.ErrTokenSignatureInvalid
	}
	return k.key, nil
}
