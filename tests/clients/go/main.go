// The daily work of aws-sdk-go-v2 in its default settings; run by zoo.py.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

func main() {
	ctx, found := context.Background(), map[string]any{}
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
	small := bytes.Repeat([]byte("0123456789"), 1000)
	large := bytes.Repeat(small, 2000)
	step := func(name string, act func() (any, error)) {
		value, err := act()
		if err != nil {
			code := "error"
			var failure smithy.APIError
			if errors.As(err, &failure) {
				code = failure.ErrorCode()
			}
			fmt.Fprintln(os.Stderr, name, err)
			value = "failed: " + code
		}
		found[name] = value
	}
	step("put", func() (any, error) {
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("go/small"), Body: bytes.NewReader(small)})
		return "done", err
	})
	step("multipart", func() (any, error) {
		// A reader that cannot be rewound, as from a pipe.
		body := io.LimitReader(bytes.NewReader(large), int64(len(large)))
		_, err := manager.NewUploader(client).Upload(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("go/large"), Body: body})
		return "done", err
	})
	step("read", func() (any, error) {
		answer, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("go/large")})
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(answer.Body)
		return fmt.Sprintf("%d %x", len(content), sha256.Sum256(content)), err
	})
	step("list", func() (any, error) {
		answer, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String("go/")})
		if err != nil {
			return nil, err
		}
		return len(answer.Contents), nil
	})
	step("delete", func() (any, error) {
		_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: aws.String("go/large")})
		return "done", err
	})
	text, _ := json.Marshal(found)
	fmt.Println(string(text))
}
