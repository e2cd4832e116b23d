// Package client is the browser's side of the edge: a module without dependencies,
// eventbus.js, and its types, served to pages of any origin that CORS_ORIGINS allows.
//
// On an event's way it is the last step: edge → SSE → eventbus.js → the page. It is
// plain files in the binary: no build step.
package client

import (
	"crypto/sha256"
	_ "embed" // the files below
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

var (
	//go:embed eventbus.js
	module string
	//go:embed eventbus.d.ts
	types string
)

// Files are the handlers of GET and HEAD, by their paths. They are safe for
// concurrent use.
func Files() map[string]http.Handler {
	return map[string]http.Handler{
		"/eventbus.js":   file(module, "text/javascript; charset=utf-8"),
		"/eventbus.d.ts": file(types, "text/plain; charset=utf-8"),
	}
}

func file(body, contentType string) http.Handler {
	sum := sha256.Sum256([]byte(body))
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		// no-cache: ask each time, so that a page meets the module of this release.
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body)) // answers If-None-Match and HEAD
	})
}
