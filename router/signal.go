package router

// signal tells a loop that there is something to do; c holds one, and one that it was
// told already is enough.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
