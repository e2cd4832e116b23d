package router

import (
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Stores are connections to a bus's Redis for who looks at it from outside
// (router/doctor). Nothing is retried.
type Stores struct {
	Streams redis.UniversalClient
	// PubSub are those of REDIS_PUBSUB_URL, in its order; the streams Redis where
	// that is not set.
	PubSub []redis.UniversalClient
}

// OpenStores makes the clients. It does not dial; an error is a bad URL. The caller
// closes them.
func OpenStores(c Config) (*Stores, error) {
	plain := tuning{retries: -1, pool: 8, read: readTimeout}
	s := &Stores{}
	var err error
	if s.Streams, err = connect(c.StreamsURL, plain); err != nil {
		return nil, fmt.Errorf("REDIS_STREAMS_URL: %w", err)
	}
	urls := splitURLs(c.PubSubURL)
	if c.PubSubURL == "" {
		urls = []string{c.StreamsURL}
	}
	for _, u := range urls {
		one, err := connect(u, plain)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("REDIS_PUBSUB_URL: %w", err), s.Close())
		}
		s.PubSub = append(s.PubSub, one)
	}
	return s, nil
}

// Close closes the connections.
func (s *Stores) Close() error {
	err := s.Streams.Close()
	for _, c := range s.PubSub {
		err = errors.Join(err, c.Close())
	}
	return err
}

// ShardKey is the shard log of a domain.
func ShardKey(domain string, shard int) string { return shardKey(domain, shard) }

// LeaseKey holds the token of the owner of a shard log, which begins with its POD_NAME.
func LeaseKey(shardKey string) string { return leaseKey(shardKey) }

// MembersKey holds the living routers of a group, by the time at which they are dead.
func MembersKey(group string) string { return membersKey(group) }

// DeadKey is the stream of entries that are no events.
func DeadKey(domain string) string { return deadKey(domain) }
