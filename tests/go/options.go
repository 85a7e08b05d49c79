package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/rocketmq-client-go/v2/consumer"
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
