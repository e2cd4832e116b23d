package event

import (
	"crypto/md5"
	"encoding/binary"
)

// HashJob spreads jobs over shards and Pub/Sub Redis. It is what legacy producers
// compute: the first eight bytes of the job id's MD5, big endian.
func HashJob(jobID string) uint64 {
	sum := md5.Sum([]byte(jobID))
	return binary.BigEndian.Uint64(sum[:8])
}

// ShardOf is the shard of a job.
func ShardOf(jobID string, shards int) int { return int(HashJob(jobID) % uint64(shards)) }
