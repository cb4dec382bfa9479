// The daily work of the JavaScript clients in their default settings; run as `node clients.mjs NAME` by zoo.py.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";

const { ZOO_URL: url, ZOO_BUCKET: bucket, AWS_ACCESS_KEY_ID: key, AWS_SECRET_ACCESS_KEY: secret } = process.env;
const small = Buffer.from("0123456789".repeat(1000));
const large = Buffer.alloc(20 << 20, small);
const digest = (bytes) => `${bytes.length} ${createHash("sha256").update(bytes).digest("hex").slice(0, 12)}`;
const collect = async (stream) => Buffer.concat(await stream.toArray());

async function aws() {
  const { S3Client, PutObjectCommand, GetObjectCommand, DeleteObjectsCommand, ListObjectsV2Command } = await import("@aws-sdk/client-s3");
  const { Upload } = await import("@aws-sdk/lib-storage");
  const credentials = { accessKeyId: key, secretAccessKey: secret };
  const client = new S3Client({ endpoint: url, region: "us-east-1", forcePathStyle: true, credentials, maxAttempts: 1 });
  const put = (name, body, more) => client.send(new PutObjectCommand({ Bucket: bucket, Key: name, Body: body, ...more }));
  const get = async (name) => digest(await collect((await client.send(new GetObjectCommand({ Bucket: bucket, Key: name }))).Body));
  return [
    ["put", async () => (await put("js/small", small)).ETag],
    ["put a stream", async () => void (await put("stream/js", Readable.from([small]), { ContentLength: small.length }))],
    ["multipart", async () => void (await new Upload({ client, params: { Bucket: bucket, Key: "js/large", Body: Readable.from([large]) } }).done())],
    ["read", () => get("js/large")],
    ["list", async () => (await client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: "js/" }))).Contents.map((found) => found.Key)],
    ["delete", async () => (await client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects: [{ Key: "js/small" }, { Key: "js/large" }] } }))).Deleted.length],
  ];
}

async function minio() {
  const { Client } = await import("minio");
  const { hostname, port, protocol } = new URL(url);
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: protocol === "https:", accessKey: key, secretKey: secret, region: "us-east-1" });
  return [
    ["put", async () => (await client.putObject(bucket, "minio/small", small, small.length)).etag],
    ["multipart", async () => void (await client.putObject(bucket, "minio/large", Readable.from([large])))],
    ["read", async () => digest(await collect(await client.getObject(bucket, "minio/large")))],
    ["list", async () => (await client.listObjectsV2(bucket, "minio/", true).toArray()).map((found) => found.name)],
    ["delete", () => client.removeObjects(bucket, ["minio/small", "minio/large"]).then(() => "done")],
  ];
}

const found = {};
try {
  for (const [step, act] of await { aws, minio }[process.argv[2]]()) {
    try {
      found[step] = (await act()) ?? "done";
    } catch (error) {
      found[step] = `failed: ${error.name} ${error.Code ?? error.code ?? ""}`.trim();
      console.error(`${step}: ${error}`);
    }
  }
} catch (error) {
  if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
  found["not installed"] = error.message.split("\n")[0];
}
console.log(JSON.stringify(found));
process.exit(0);
