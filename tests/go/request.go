package main

import (
	"context"
	"strconv"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

const requestSize = 100

func answerTo(id string) string { return "re: " + id }

// request asks, one request after the other, until the leash is cut. An answered request is an acknowledged call of the
// history; an answer to another request is a note that begins with "wrong".
func request(options options, history *history, leash *leash) error {
	connection, err := options.connection()
	if err != nil {
		return err
	}
	pause, err := options.number("pause-ms", 0)
	if err != nil {
		return err
	}
	timeout, err := options.number("timeout-ms", 3000)
	if err != nil {
		return err
	}
	client, err := connection.producer("")
	if err != nil {
		return err
	}
	if err := client.Start(); err != nil {
		return err
	}
	history.mark("started")
	for n := 0; !leash.cut(); n++ {
		body := makePayload(connection.process+"-"+strconv.Itoa(n), requestSize)
		history.invoke(n, body, connection.topic, 1)
		message := primitive.NewMessage(connection.topic, body.bytes)
		answer, err := client.Request(context.Background(), time.Duration(timeout)*time.Millisecond, message)
		switch {
		case err != nil:
			history.unknown(n, err.Error())
		case answer == nil:
			history.unknown(n, "no answer")
		case string(answer.Body) != answerTo(body.id):
			history.mark("wrong answer to " + body.id + ": " + string(answer.Body))
		default:
			// Answers have no place in a queue: each counts for itself.
			history.ok(n, &primitive.MessageQueue{Topic: connection.topic, BrokerName: "broker-a"}, int64(n))
		}
		leash.pause(time.Duration(pause) * time.Millisecond)
	}
	if err := client.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}

// respond answers every request of a topic until the leash is cut, and writes every delivery. A reply that the broker refused
// is a note that begins with "refused".
func respond(options options, history *history, leash *leash) error {
	connection, err := options.connection()
	if err != nil {
		return err
	}
	answers, err := connection.producer("-answers")
	if err != nil {
		return err
	}
	if err := answers.Start(); err != nil {
		return err
	}
	client, err := connection.pushConsumer()
	if err != nil {
		return err
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}
	listener := func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			history.deliver(connection.group, message, false)
			if consumer.GetReplyToClient(message) == "" {
				continue
			}
			words := []byte(answerTo(readPayload(message.Body).id))
			reply, err := consumer.CreateReplyMessage(message, words)
			if err == nil {
				// The client leaves the body out.
				reply.Body = words
				_, err = answers.SendSync(ctx, reply)
			}
			if err != nil {
				history.mark("refused: " + err.Error())
			}
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := client.Subscribe(connection.topic, selector, listener); err != nil {
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
	if err := answers.Shutdown(); err != nil {
		return err
	}
	history.mark("stopped")
	return nil
}
