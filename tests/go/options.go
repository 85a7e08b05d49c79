package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// options is the command line: `--name value` pairs.
type options map[string]string

func parseOptions(args []string) (options, error) {
	if len(args)%2 != 0 {
		return nil, fmt.Errorf("options come as --name value")
	}
	parsed := options{}
	for i := 0; i < len(args); i += 2 {
		if !strings.HasPrefix(args[i], "--") {
			return nil, fmt.Errorf("not an option: %s", args[i])
		}
		parsed[args[i][2:]] = args[i+1]
	}
	return parsed, nil
}

func (o options) text(name string) (string, error) {
	value, found := o[name]
	if !found {
		return "", fmt.Errorf("--%s is missing", name)
	}
	return value, nil
}

func (o options) textOr(name, fallback string) string {
	if value, found := o[name]; found {
		return value
	}
	return fallback
}

// selector is --sql, else --tags, else everything.
func (o options) selector() consumer.MessageSelector {
	if sql, found := o["sql"]; found {
		return consumer.MessageSelector{Type: consumer.SQL92, Expression: sql}
	}
	return consumer.MessageSelector{Type: consumer.TAG, Expression: o.textOr("tags", "*")}
}

func (o options) number(name string, fallback int) (int, error) {
	value, found := o[name]
	if !found {
		return fallback, nil
	}
	number, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("--%s: %w", name, err)
	}
	return number, nil
}

// numbers are the options of these names; those that are not given keep their values.
func (o options) numbers(numbers map[string]int) error {
	for name, fallback := range numbers {
		value, err := o.number(name, fallback)
		if err != nil {
			return err
		}
		numbers[name] = value
	}
	return nil
}

// connection is what every program needs to reach a cluster.
type connection struct {
	process  string
	namesrvs []string
	group    string
	topic    string
}

func (o options) connection() (connection, error) {
	var c connection
	var namesrv string
	for name, into := range map[string]*string{
		"process": &c.process, "namesrv": &namesrv, "group": &c.group, "topic": &c.topic,
	} {
		value, err := o.text(name)
		if err != nil {
			return connection{}, err
		}
		*into = value
	}
	c.namesrvs = strings.Split(namesrv, ";")
	return c, nil
}

// producer is a producer of the process's group; the suffix tells those of one process apart.
func (c connection) producer(suffix string, more ...producer.Option) (rocketmq.Producer, error) {
	return rocketmq.NewProducer(append([]producer.Option{
		producer.WithNsResolver(primitive.NewPassthroughResolver(c.namesrvs)),
		producer.WithGroupName(c.group + suffix),
		producer.WithInstanceName(c.process + suffix),
	}, more...)...)
}

// pushConsumer is a push consumer that begins with the first message.
func (c connection) pushConsumer(more ...consumer.Option) (rocketmq.PushConsumer, error) {
	return rocketmq.NewPushConsumer(append([]consumer.Option{
		consumer.WithNsResolver(primitive.NewPassthroughResolver(c.namesrvs)),
		consumer.WithGroupName(c.group),
		consumer.WithInstance(c.process),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, more...)...)
}
