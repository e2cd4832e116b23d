package hub

// sweepAfter is how many newcomers make a sweep worth its while.
const sweepAfter = 1000

// Sweeper tells when memory is to be given back. What comes, browsers and jobs, leaves
// garbage behind, and a process in which nothing happens afterwards does not collect
// for minutes. It belongs to one goroutine.
type Sweeper struct{ before, swept uint64 }

// Due is asked now and then, with how many ever came: many have since the last sweep,
// and no more do.
func (s *Sweeper) Due(came uint64) bool {
	due := came == s.before && came-s.swept >= sweepAfter
	if s.before = came; due {
		s.swept = came
	}
	return due
}
