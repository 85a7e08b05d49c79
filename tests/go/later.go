package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// levelsMs are the delay levels that plans use.
var levelsMs = []int64{0, 1_000, 5_000, 10_000, 30_000, 60_000}

// later sends delayed messages, and consumes them: at once, or after it has given each back so many times. Its plan and its
// notes are those of the Java peer's Later.
func later(options options, history *history, leash *leash) error {
	numbers := map[string]int{"fail": 0, "max-times": 16, "retry-level": 0}
	if err := options.numbers(numbers); err != nil {
		return err
	}
	connection, err := options.connection()
	if err != nil {
		return err
	}
	plan, err := options.text("plan")
	if err != nil {
		return err
	}
	reader, err := connection.pushConsumer(consumer.WithMaxReconsumeTimes(int32(numbers["max-times"])))
	if err != nil {
		return err
	}
	listener := func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		failed := false
		for _, message := range messages {
			id := readPayload(message.Body).id
			history.mark(fmt.Sprintf("got %s %d %d", id, message.ReconsumeTimes, time.Now().UnixMilli()))
			failed = failed || int(message.ReconsumeTimes) < numbers["fail"]
		}
		if concurrently, found := primitive.GetConcurrentlyCtx(ctx); found {
			concurrently.DelayLevelWhenNextConsume = numbers["retry-level"]
		}
		if failed {
			return consumer.ConsumeRetryLater, nil
		}
		return consumer.ConsumeSuccess, nil
	}
	everything := consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}
	if err := reader.Subscribe(connection.topic, everything, listener); err != nil {
		return err
	}
	if err := reader.Start(); err != nil {
		return err
	}
	writer, err := connection.producer("-producer", producer.WithRetry(0))
	if err != nil {
		return err
	}
	if err := writer.Start(); err != nil {
		return err
	}
	history.mark("started")
	if err := sendLater(writer, plan, connection, history, leash); err != nil {
		return err
	}
	history.mark("done")
	leash.await()
	if err := writer.Shutdown(); err != nil {
		return err
	}
	if err := reader.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}

func sendLater(writer rocketmq.Producer, plan string, connection connection, history *history, leash *leash) error {
	number := 0
	for _, part := range strings.Split(plan, ",") {
		words := strings.FieldsFunc(part, func(r rune) bool { return r == '=' || r == '*' })
		if len(words) != 3 {
			return fmt.Errorf("not a part of a plan: %s", part)
		}
		value, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(words[2])
		if err != nil {
			return err
		}
		for n := 0; n < count && !leash.cut(); n++ {
			id := fmt.Sprintf("%s-%d", connection.process, number)
			number++
			if err := sendOneLater(writer, connection.topic, id, words[0], value, history, leash); err != nil {
				return err
			}
		}
	}
	return nil
}

func sendOneLater(
	writer rocketmq.Producer, topic, id, kind string, value int64, history *history, leash *leash,
) error {
	for !leash.cut() {
		message := primitive.NewMessage(topic, makePayload(id, 200).bytes)
		before := time.Now().UnixMilli()
		delay := value
		switch kind {
		case "level":
			message.WithDelayTimeLevel(int(value))
			delay = levelsMs[value]
		case "sec":
			message.WithProperty("TIMER_DELAY_SEC", strconv.FormatInt(value, 10))
			delay = value * 1_000
		case "ms":
			message.WithProperty("TIMER_DELAY_MS", strconv.FormatInt(value, 10))
		case "at":
			message.WithProperty("TIMER_DELIVER_MS", strconv.FormatInt(before+value, 10))
		default:
			return fmt.Errorf("no such delay: %s", kind)
		}
		result, err := writer.SendSync(context.Background(), message)
		if err == nil && result.Status == primitive.SendOK {
			history.mark(fmt.Sprintf("sent %s %d %d %d", id, before, time.Now().UnixMilli(), delay))
			return nil
		}
		history.mark(fmt.Sprintf("failed %s %v", id, err))
		leash.pause(pauseAfterFailure)
	}
	return nil
}
