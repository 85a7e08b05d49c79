package main

import (
	"context"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// consume consumes with a push consumer until the leash is cut, and writes every delivery.
func consume(options options, history *history, leash *leash) error {
	connection, err := options.connection()
	if err != nil {
		return err
	}
	ordered := options.textOr("order", "0") != "0"
	model := consumer.Clustering
	if options.textOr("model", "clustering") == "broadcasting" {
		model = consumer.BroadCasting
	}
	client, err := connection.pushConsumer(consumer.WithConsumerModel(model), consumer.WithConsumerOrder(ordered))
	if err != nil {
		return err
	}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			history.deliver(connection.group, message, ordered)
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := client.Subscribe(connection.topic, options.selector(), listener); err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	history.mark("started")
	leash.await()
	if err := client.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}
