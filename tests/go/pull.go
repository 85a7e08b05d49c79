package main

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const (
	pollPatience = 200 * time.Millisecond
	pullLength   = 32
)

// pull reads a topic without a listener. Kinds: lite (the client pulls in the background, this program polls and
// acknowledges) and pull (each queue of one broker, from offset 0 to its end, once).
func pull(options options, history *history, leash *leash) error {
	connection, err := options.connection()
	if err != nil {
		return err
	}
	client, err := rocketmq.NewPullConsumer(
		consumer.WithNsResolver(primitive.NewPassthroughResolver(connection.namesrvs)),
		consumer.WithGroupName(connection.group),
		consumer.WithInstance(connection.process),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithPullBatchSize(pullLength),
	)
	if err != nil {
		return err
	}
	if err := client.Subscribe(connection.topic, options.selector()); err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	history.mark("started")
	switch kind := options.textOr("kind", "lite"); kind {
	case "lite":
		err = poll(client, connection, history, leash)
	case "pull":
		err = readQueues(client, connection, options, history, leash)
	default:
		err = fmt.Errorf("no such kind: %s", kind)
	}
	if err != nil {
		return err
	}
	leash.await()
	if err := client.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}

func poll(client rocketmq.PullConsumer, c connection, history *history, leash *leash) error {
	for !leash.cut() {
		request, err := client.Poll(context.Background(), pollPatience)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, message := range request.GetMsgList() {
			history.deliver(c.group, message, false)
		}
		client.ACK(context.Background(), request, consumer.ConsumeSuccess)
	}
	return nil
}

func readQueues(client rocketmq.PullConsumer, c connection, options options, history *history, leash *leash) error {
	broker, err := options.text("broker")
	if err != nil {
		return err
	}
	queues, err := options.number("queues", 4)
	if err != nil {
		return err
	}
	for id := 0; id < queues; id++ {
		queue := &primitive.MessageQueue{Topic: c.topic, BrokerName: broker, QueueId: id}
		for next, end := int64(0), int64(1); next < end && !leash.cut(); {
			result, err := client.PullFrom(context.Background(), queue, next, pullLength)
			if err != nil {
				return err
			}
			for _, message := range result.GetMessageExts() {
				history.deliver(c.group, message, true)
			}
			next, end = result.NextBeginOffset, result.MaxOffset
		}
	}
	history.mark("done")
	return nil
}
