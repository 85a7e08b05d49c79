package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"golang.org/x/sys/unix"
)

const errorBytesMax = 500

// history writes what this process does and sees to standard output: one JSON object a line, one write a line, so that a
// kill costs the last line at most. The fields are those of tests/src/history.rs; the clock is CLOCK_MONOTONIC.
type history struct {
	mutex   sync.Mutex
	process string
}

func newHistory(process string) *history { return &history{process: process} }

type fields map[string]interface{}

func (h *history) put(kind string, event fields) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		h.broken(err)
	}
	event["type"], event["t"], event["process"] = kind, now.Nano(), h.process
	line, err := json.Marshal(event)
	if err != nil {
		h.broken(err)
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		h.broken(err)
	}
}

// broken ends the process: what it did from now on would not be judged.
func (h *history) broken(err error) {
	fmt.Fprintln(os.Stderr, "cannot write the history:", err)
	os.Exit(1)
}

func (h *history) invoke(op int, body payload, topic string, attempts int) {
	h.put("invoke", fields{"op": op, "id": body.id, "topic": topic, "hash": body.hash(), "attempts": attempts})
}

func (h *history) ok(op int, queue *primitive.MessageQueue, offset int64) {
	h.put("ok", fields{"op": op, "queue": queueNumber(queue), "offset": offset})
}

// fail: the send surely had no effect.
func (h *history) fail(op int, cause string) { h.outcome("fail", op, cause) }

// unknown: the send may or may not have had its effect.
func (h *history) unknown(op int, cause string) { h.outcome("info", op, cause) }

func (h *history) outcome(kind string, op int, cause string) {
	if len(cause) > errorBytesMax {
		cause = cause[:errorBytesMax]
	}
	h.put(kind, fields{"op": op, "error": cause})
}

func (h *history) deliver(group string, message *primitive.MessageExt, ordered bool) {
	body := readPayload(message.Body)
	event := fields{
		"group": group, "topic": message.Topic, "queue": queueNumber(message.Queue), "offset": message.QueueOffset,
		"id": body.id, "hash": body.hash(), "ordered": ordered,
	}
	for name, value := range map[string]string{
		"tag": message.GetTags(), "keys": message.GetKeys(), "user": message.GetProperty(userProperty),
	} {
		if value != "" {
			event[name] = value
		}
	}
	h.put("deliver", event)
}

// queueNumber is a queue's number over all brokers: its id, plus 1,000 for each broker name before its own.
func queueNumber(queue *primitive.MessageQueue) int {
	name := queue.BrokerName
	return 1000*int(name[len(name)-1]-'a') + queue.QueueId
}

func (h *history) mark(what string) { h.put("mark", fields{"what": what}) }
