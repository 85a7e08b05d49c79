package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	batchLength       = 10
	asyncInFlight     = 256
	pauseAfterFailure = 50 * time.Millisecond
	callbacksPatience = 30 * time.Second
)

// sender sends messages and writes what happened. Modes: sync, async, oneway, batch (lists of ten), and ordered (one queue
// per key by the client's own hash selector, each message sent again under the same id until it is acknowledged).
type sender struct {
	connection
	history  *history
	leash    *leash
	producer rocketmq.Producer
	size     int
	attempts int
	words    bool
	nextOp   int
}

type out struct {
	body    payload
	message *primitive.Message
}

func produce(options options, history *history, leash *leash) error {
	numbers := map[string]int{
		"size": 200, "retries": 0, "queues": 4, "words": 0, "keys": 16, "count": math.MaxInt32, "pause-ms": 0,
	}
	if err := options.numbers(numbers); err != nil {
		return err
	}
	connection, err := options.connection()
	if err != nil {
		return err
	}
	mode, err := options.text("mode")
	if err != nil {
		return err
	}
	settings := []producer.Option{
		producer.WithRetry(numbers["retries"]),
		producer.WithDefaultTopicQueueNums(numbers["queues"]),
	}
	if mode == "ordered" {
		settings = append(settings, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	}
	client, err := connection.producer("", settings...)
	if err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	s := &sender{
		connection: connection, history: history, leash: leash, producer: client,
		size: numbers["size"], attempts: 1 + numbers["retries"], words: numbers["words"] != 0,
	}
	history.mark("started")
	if err := s.sendAll(mode, numbers["count"], numbers["keys"], time.Duration(numbers["pause-ms"])*time.Millisecond); err != nil {
		return err
	}
	history.mark("done")
	leash.await()
	if err := client.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}

func (s *sender) sendAll(mode string, count, keys int, pause time.Duration) error {
	inFlight := make(chan struct{}, asyncInFlight)
	for n := 0; n < count && !s.leash.cut(); n++ {
		switch mode {
		case "sync":
			s.sync(s.message(n))
		case "async":
			s.async(s.message(n), inFlight)
		case "oneway":
			s.oneway(s.message(n))
		case "ordered":
			s.ordered(s.message(n), n%keys)
		case "batch":
			length := batchLength
			if count-n < length {
				length = count - n
			}
			s.batch(n, length)
			n += batchLength - 1
		default:
			return fmt.Errorf("no such mode: %s", mode)
		}
		s.leash.pause(pause)
	}
	// All of it is free again once every callback has run.
	patience := time.After(callbacksPatience)
	for i := 0; i < asyncInFlight; i++ {
		select {
		case inFlight <- struct{}{}:
		case <-patience:
			s.history.mark("callbacks are missing")
			return nil
		}
	}
	return nil
}

func (s *sender) message(n int) out {
	body := makePayload(fmt.Sprintf("%s-%d", s.process, n), s.size)
	message := primitive.NewMessage(s.topic, body.bytes)
	if s.words {
		speak(message, body.id, n)
	}
	return out{body: body, message: message}
}

func (s *sender) invoke(out out) int {
	op := s.nextOp
	s.nextOp++
	s.history.invoke(op, out.body, s.topic, s.attempts)
	return op
}

// settle writes the outcome of a call; index is the message's place in a list, whose acknowledgement names the first of
// consecutive offsets. It tells whether the message was acknowledged.
func (s *sender) settle(op int, index int, result *primitive.SendResult, err error) bool {
	switch {
	case err != nil && s.attempts == 1 && surelyNothing(err):
		s.history.fail(op, err.Error())
	case err != nil:
		s.history.unknown(op, err.Error())
	case result.Status != primitive.SendOK:
		s.history.unknown(op, fmt.Sprintf("send status %d", result.Status))
	default:
		s.history.ok(op, result.MessageQueue, result.QueueOffset+int64(index))
		return true
	}
	return false
}

// surelyNothing tells whether nothing of the message can be in the log: illegal, not available, no permission, no topic,
// bad parameter.
func surelyNothing(err error) bool {
	var code int
	if _, scanned := fmt.Sscanf(err.Error(), "CODE: %d", &code); scanned != nil {
		return false
	}
	switch code {
	case 13, 14, 16, 17, 29:
		return true
	default:
		return false
	}
}

func (s *sender) sync(out out) {
	op := s.invoke(out)
	result, err := s.producer.SendSync(context.Background(), out.message)
	if !s.settle(op, 0, result, err) {
		s.leash.pause(pauseAfterFailure)
	}
}

func (s *sender) ordered(out out, key int) {
	out.message.WithShardingKey(fmt.Sprintf("key-%d", key))
	for !s.leash.cut() {
		op := s.invoke(out)
		result, err := s.producer.SendSync(context.Background(), out.message)
		if s.settle(op, 0, result, err) {
			return
		}
		s.leash.pause(pauseAfterFailure)
	}
}

func (s *sender) async(out out, inFlight chan struct{}) {
	inFlight <- struct{}{}
	op := s.invoke(out)
	settled := func(_ context.Context, result *primitive.SendResult, err error) {
		s.settle(op, 0, result, err)
		<-inFlight
	}
	if err := s.producer.SendAsync(context.Background(), settled, out.message); err != nil {
		settled(context.Background(), nil, err)
	}
}

func (s *sender) oneway(out out) {
	op := s.invoke(out)
	if err := s.producer.SendOneWay(context.Background(), out.message); err != nil {
		s.history.unknown(op, err.Error())
		return
	}
	s.history.unknown(op, "one-way")
}

func (s *sender) batch(first, length int) {
	messages := make([]*primitive.Message, 0, length)
	ops := make([]int, 0, length)
	for n := first; n < first+length; n++ {
		out := s.message(n)
		messages = append(messages, out.message)
		ops = append(ops, s.invoke(out))
	}
	result, err := s.producer.SendSync(context.Background(), messages...)
	for index, op := range ops {
		s.settle(op, index, result, err)
	}
}
