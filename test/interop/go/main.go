// Package main lets the Go SDK of CloudEvents write, read and post events for a test: one JSON command on stdin, one JSON
// answer on stdout. An event is {"attributes": {name: {"type", "value"}}, "data": {"kind": "none"|"json"|"text"|"bytes",
// "value"}}, every value as text, bytes in base64.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
)

type attribute struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type data struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

type told struct {
	Attributes map[string]attribute `json:"attributes"`
	Data       data                 `json:"data"`
	Error      string               `json:"error,omitempty"`
}

// A Kafka message as it is; a value that is missing is null.
type message struct {
	Headers map[string]string `json:"headers"`
	Key     *string           `json:"key"`
	Value   *string           `json:"value"`
}

type command struct {
	Do       string    `json:"do"`
	Brokers  []string  `json:"brokers"`
	Topic    string    `json:"topic"`
	Mode     string    `json:"mode"`
	URL      string    `json:"url"`
	Key      string    `json:"key"`
	Events   []told    `json:"events"`
	Messages []message `json:"messages"`
}

func main() {
	var asked command
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fail(err)
	}
	var answer any
	var err error
	switch asked.Do {
	case "produce":
		err = produce(asked)
	case "raw":
		err = raw(asked)
	case "consume":
		answer, err = consume(asked)
	case "post":
		answer, err = post(asked)
	default:
		err = fmt.Errorf("no command %q", asked.Do)
	}
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// -- events

func eventOf(from told) (event.Event, error) {
	made := event.New()
	for name, from := range from.Attributes {
		switch name {
		case "id":
			made.SetID(from.Value)
		case "source":
			made.SetSource(from.Value)
		case "type":
			made.SetType(from.Value)
		case "subject":
			made.SetSubject(from.Value)
		case "dataschema":
			made.SetDataSchema(from.Value)
		case "datacontenttype":
			made.SetDataContentType(from.Value)
		case "time":
			at, err := types.ParseTime(from.Value)
			if err != nil {
				return made, err
			}
			made.SetTime(at)
		default:
			value, err := valueOf(from)
			if err != nil {
				return made, err
			}
			made.SetExtension(name, value)
		}
	}
	contentType := made.DataContentType()
	var err error
	switch from.Data.Kind {
	case "json":
		err = made.SetData(contentType, json.RawMessage(from.Data.Value))
		// Raw JSON is bytes to the SDK, and is none to whoever reads it.
		made.DataBase64 = false
	case "text":
		err = made.SetData(contentType, from.Data.Value)
	case "bytes":
		var decoded []byte
		if decoded, err = base64.StdEncoding.DecodeString(from.Data.Value); err == nil {
			err = made.SetData(contentType, decoded)
		}
	}
	if err != nil {
		return made, err
	}
	return made, made.Validate()
}

func valueOf(from attribute) (any, error) {
	switch from.Type {
	case "Boolean":
		return types.ParseBool(from.Value)
	case "Integer":
		return types.ParseInteger(from.Value)
	case "Binary":
		return types.ParseBinary(from.Value)
	case "URI":
		return types.ParseURI(from.Value), nil
	case "URIReference":
		return types.ParseURIRef(from.Value), nil
	case "Timestamp":
		return types.ParseTimestamp(from.Value)
	}
	return from.Value, nil
}

func tell(of *event.Event) told {
	attributes := map[string]attribute{
		"id":     {"String", of.ID()},
		"source": {"URIReference", of.Source()},
		"type":   {"String", of.Type()},
	}
	if of.Subject() != "" {
		attributes["subject"] = attribute{"String", of.Subject()}
	}
	if of.DataSchema() != "" {
		attributes["dataschema"] = attribute{"URI", of.DataSchema()}
	}
	if of.DataContentType() != "" {
		attributes["datacontenttype"] = attribute{"String", of.DataContentType()}
	}
	if !of.Time().IsZero() {
		attributes["time"] = attribute{"Timestamp", types.FormatTime(of.Time())}
	}
	for name, value := range of.Extensions() {
		// What its Kafka binding adds says where a message stood.
		if strings.HasPrefix(name, "kafka") {
			continue
		}
		text, err := types.Format(value)
		if err != nil {
			text = err.Error()
		}
		attributes[name] = attribute{fmt.Sprintf("%T", value), text}
	}
	if of.Data() == nil {
		return told{Attributes: attributes, Data: data{Kind: "none"}}
	}
	return told{Attributes: attributes, Data: data{"bytes", base64.StdEncoding.EncodeToString(of.Data())}}
}

func inMode(mode string) context.Context {
	if mode == "structured" {
		return binding.WithForceStructured(context.Background())
	}
	return binding.WithForceBinary(context.Background())
}

// -- Kafka

func config() *sarama.Config {
	made := sarama.NewConfig()
	made.Version = sarama.V2_1_0_0
	made.Producer.Return.Successes = true
	made.Producer.RequiredAcks = sarama.WaitForAll
	return made
}

func send(asked command, messages []*sarama.ProducerMessage) error {
	producer, err := sarama.NewSyncProducer(asked.Brokers, config())
	if err != nil {
		return err
	}
	defer producer.Close()
	return producer.SendMessages(messages)
}

func produce(asked command) error {
	messages := []*sarama.ProducerMessage{}
	for _, from := range asked.Events {
		made, err := eventOf(from)
		if err != nil {
			return fmt.Errorf("%s: %w", from.Attributes["id"].Value, err)
		}
		to := &sarama.ProducerMessage{Topic: asked.Topic}
		if err := kafka_sarama.WriteProducerMessage(inMode(asked.Mode), binding.ToMessage(&made), to); err != nil {
			return err
		}
		messages = append(messages, to)
	}
	return send(asked, messages)
}

func raw(asked command) error {
	messages := []*sarama.ProducerMessage{}
	for _, from := range asked.Messages {
		to := &sarama.ProducerMessage{Topic: asked.Topic}
		for name, value := range from.Headers {
			to.Headers = append(to.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
		}
		if from.Key != nil {
			to.Key = sarama.StringEncoder(*from.Key)
		}
		if from.Value != nil {
			decoded, err := base64.StdEncoding.DecodeString(*from.Value)
			if err != nil {
				return err
			}
			to.Value = sarama.ByteEncoder(decoded)
		}
		messages = append(messages, to)
	}
	return send(asked, messages)
}

// All that a topic holds now.
func consume(asked command) ([]told, error) {
	client, err := sarama.NewClient(asked.Brokers, config())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partitions, err := client.Partitions(asked.Topic)
	if err != nil {
		return nil, err
	}
	found := []told{}
	for _, partition := range partitions {
		end, err := client.GetOffset(asked.Topic, partition, sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		if end == 0 {
			continue
		}
		reading, err := consumer.ConsumePartition(asked.Topic, partition, sarama.OffsetOldest)
		if err != nil {
			return nil, err
		}
		for read := range reading.Messages() {
			made, err := binding.ToEvent(context.Background(), kafka_sarama.NewMessageFromConsumerMessage(read))
			if err == nil {
				err = made.Validate()
			}
			if err != nil {
				found = append(found, told{Error: err.Error()})
			} else {
				found = append(found, tell(made))
			}
			if read.Offset == end-1 {
				break
			}
		}
		reading.AsyncClose()
	}
	return found, nil
}

// -- HTTP

type posted struct {
	Status int    `json:"status"`
	Type   string `json:"type"`
	Body   string `json:"body"`
}

func post(asked command) ([]posted, error) {
	requests := []*http.Request{}
	made := []event.Event{}
	for _, from := range asked.Events {
		one, err := eventOf(from)
		if err != nil {
			return nil, err
		}
		made = append(made, one)
	}
	if asked.Mode == "batch" {
		request, err := cehttp.NewHTTPRequestFromEvents(context.Background(), asked.URL, made)
		if err != nil {
			return nil, err
		}
		requests = append(requests, request)
	} else {
		for _, one := range made {
			request, err := http.NewRequest(http.MethodPost, asked.URL, nil)
			if err != nil {
				return nil, err
			}
			if err := cehttp.WriteRequest(inMode(asked.Mode), binding.ToMessage(&one), request); err != nil {
				return nil, err
			}
			requests = append(requests, request)
		}
	}
	answers := []posted{}
	for _, request := range requests {
		request.Header.Set("Authorization", "Bearer "+asked.Key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		body := new(bytes.Buffer)
		if _, err := io.Copy(body, response.Body); err != nil {
			return nil, err
		}
		response.Body.Close()
		answers = append(answers, posted{response.StatusCode, response.Header.Get("Content-Type"), body.String()})
	}
	return answers, nil
}
