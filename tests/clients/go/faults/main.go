// What fault_worker.py does, by aws-sdk-go-v2 without retries; run by node_faults.py.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const count, parts, threads = 200, 25, 8

// A reader that tells when half of it was read; it cannot be rewound.
type halfway struct {
	from io.Reader
	left int64
	half func()
}

func (h *halfway) Read(p []byte) (int, error) {
	n, err := h.from.Read(p)
	if before := h.left; before > 0 {
		if h.left -= int64(n); h.left <= 0 {
			h.half()
		}
	}
	return n, err
}

func main() {
	ctx := context.Background()
	settings, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		panic(err)
	}
	client := s3.NewFromConfig(settings, func(options *s3.Options) {
		options.BaseEndpoint = aws.String(os.Getenv("ZOO_URL"))
		options.UsePathStyle = true
		options.RetryMaxAttempts = 1
	})
	bucket := aws.String(os.Getenv("ZOO_BUCKET"))
	least, _ := strconv.ParseFloat(os.Getenv("ZOO_SECONDS"), 64)
	small := bytes.Repeat([]byte("0123456789"), 1000)
	large := bytes.Repeat([]byte("0123456789abcdef"), parts<<19)
	name := func(number int) *string { return aws.String(fmt.Sprintf("small%d", number%count)) }
	put := func(number int) error {
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: name(number), Body: bytes.NewReader(small)})
		return err
	}
	get := func(number int) error {
		answer, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: name(number)})
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if got, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(got, small) {
			return fmt.Errorf("%d bytes came: %v", len(got), err)
		}
		return nil
	}
	many := func(act func(int) error) func(func()) ([]string, float64) {
		return func(half func()) ([]string, float64) {
			var next atomic.Int64
			var lock sync.Mutex
			var all sync.WaitGroup
			errors, longest, started := []string{}, 0.0, time.Now()
			for range threads {
				all.Add(1)
				go func() {
					defer all.Done()
					for {
						number := int(next.Add(1)) - 1
						if number >= count && time.Since(started).Seconds() >= least {
							return
						}
						if number == count/2 {
							half()
						}
						before := time.Now()
						err := act(number)
						lock.Lock()
						longest = max(longest, time.Since(before).Seconds())
						if err != nil {
							errors = append(errors, fmt.Sprintf("%d: %.300s", number, err.Error()))
						}
						lock.Unlock()
						time.Sleep(50 * time.Millisecond)
					}
				}()
			}
			all.Wait()
			return errors, longest
		}
	}
	one := func(act func(func()) error) func(func()) ([]string, float64) {
		return func(half func()) ([]string, float64) {
			errors, started := []string{}, time.Now()
			if err := act(half); err != nil {
				errors = append(errors, fmt.Sprintf("%.300s", err.Error()))
			}
			return errors, time.Since(started).Seconds()
		}
	}
	up := func(half func()) error {
		body := &halfway{bytes.NewReader(large), int64(len(large)) / 2, half}
		_, err := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize = 8 << 20; u.Concurrency = 4 }).Upload(
			ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("large"), Body: body})
		return err
	}
	down := func(half func()) error {
		answer, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("large")})
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		size, err := io.Copy(io.Discard, &halfway{answer.Body, int64(len(large)) / 2, half})
		if err == nil && size != int64(len(large)) {
			err = fmt.Errorf("%d bytes came", size)
		}
		return err
	}
	phases := []struct {
		name string
		act  func(func()) ([]string, float64)
	}{{"put", many(put)}, {"get", many(get)}, {"up", one(up)}, {"down", one(down)}}
	lines := bufio.NewReader(os.Stdin)
	for _, phase := range phases {
		fmt.Println("ready", phase.name)
		_, _ = lines.ReadString('\n')
		errors, seconds := phase.act(func() { fmt.Println("half", phase.name) })
		text, _ := json.Marshal(map[string]any{"errors": errors, "seconds": seconds})
		fmt.Println("done", phase.name, string(text))
	}
}
