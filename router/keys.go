package router

import "strconv"

// Every key and channel of the bus. Braces are literal: Cluster hash tags that
// hold the sibling key's whole name, so that the keys of one script share a slot
// while the legacy names stay as they are.

// shardKey is the shard log.
func shardKey(domain string, shard int) string { return domain + ":events:" + strconv.Itoa(shard) }

// logKey is the job log.
func logKey(domain, jobID string) string { return "log:{" + stateKey(domain, jobID) + "}" }

// stateKey is the job's state.
func stateKey(domain, jobID string) string { return domain + ":state:" + jobID }

// publishedKey holds the id that an idempotency key got.
func publishedKey(shardKey, jobID, key string) string {
	return "published:{" + shardKey + "}:" + jobID + "/" + key
}

// finalKey marks a job that is over.
func finalKey(shardKey, jobID string) string { return "final:{" + shardKey + "}:" + jobID }

// leaseKey holds the token of the shard's owner.
func leaseKey(shardKey string) string { return "router:lease:{" + shardKey + "}" }

// lossKey changes when entries of the shard were lost unread; it lives for
// RETENTION.
func lossKey(shardKey string) string { return "router:loss:{" + shardKey + "}" }

// membersKey holds the living routers of a group.
func membersKey(group string) string { return "router:members:" + group }

// deadKey is the stream of entries that are no events.
func deadKey(domain string) string { return domain + ":events:dead" }

// liveChannel carries a job's announcements.
func liveChannel(jobID string) string { return liveChannels + jobID }

const liveChannels = "sse:events:"

// watchChannel carries a shard's announcements.
func watchChannel(domain string, shard int) string {
	return "watch:" + domain + ":" + strconv.Itoa(shard)
}

// probeChannel carries a router's messages to itself.
func probeChannel(token string) string { return "router:probe:" + token }
