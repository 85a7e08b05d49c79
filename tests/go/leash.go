package main

import (
	"io"
	"os"
	"time"
)

// leash ties this process to the test that started it: when standard input ends, work is to stop. A test that dies closes
// it too, so that no peer outlives its test.
type leash struct {
	end chan struct{}
}

func newLeash() *leash {
	l := &leash{end: make(chan struct{})}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(l.end)
	}()
	return l
}

func (l *leash) cut() bool {
	select {
	case <-l.end:
		return true
	default:
		return false
	}
}

func (l *leash) await() { <-l.end }

// pause waits at most this long.
func (l *leash) pause(atMost time.Duration) {
	if atMost <= 0 {
		return
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-l.end:
	case <-timer.C:
	}
}
