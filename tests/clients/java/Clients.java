// The daily work of the AWS SDK for Java v2 in its default settings; run as `java -cp ... Clients.java` by zoo.py.

import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.net.URI;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import javax.net.ssl.TrustManagerFactory;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.http.apache5.Apache5HttpClient;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.CompletedPart;
import software.amazon.awssdk.services.s3.model.ObjectIdentifier;
import software.amazon.awssdk.services.s3.model.S3Exception;

public class Clients {
    static final String BUCKET = System.getenv("ZOO_BUCKET");
    static final int PART = 10 << 20;

    interface Step {
        String act() throws Exception;
    }

    static final StringBuilder FOUND = new StringBuilder();

    static void step(String name, Step step) {
        String result;
        try {
            result = step.act();
        } catch (S3Exception exc) {
            System.err.println(name + ": " + exc);
            result = "failed: " + exc.statusCode() + " " + exc.awsErrorDetails().errorCode();
        } catch (Exception exc) {
            System.err.println(name + ": " + exc);
            result = "failed: " + exc.getClass().getSimpleName();
        }
        FOUND.append(FOUND.length() > 0 ? ", " : "").append('"').append(name).append("\": \"");
        FOUND.append(result.replace("\\", "\\\\").replace("\"", "\\\"")).append('"');
    }

    static String digest(byte[] bytes) throws Exception {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(bytes);
        return bytes.length + " " + HexFormat.of().formatHex(hash).substring(0, 12);
    }

    static Apache5HttpClient.Builder http() throws Exception {
        String file = System.getenv("AWS_CA_BUNDLE");
        Apache5HttpClient.Builder builder = Apache5HttpClient.builder();
        if (file == null) {
            return builder;
        }
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream in = new FileInputStream(file)) {
            store.setCertificateEntry("zoo", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(store);
        return builder.tlsTrustManagersProvider(factory::getTrustManagers);
    }

    static String multipart(S3Client client, byte[] large) {
        String id = client.createMultipartUpload(r -> r.bucket(BUCKET).key("java/large")).uploadId();
        List<CompletedPart> parts = new ArrayList<>();
        for (int number = 1; (number - 1) * PART < large.length; number++) {
            int n = number;
            ByteArrayInputStream in = new ByteArrayInputStream(large, (n - 1) * PART, PART);
            String etag = client.uploadPart(
                r -> r.bucket(BUCKET).key("java/large").uploadId(id).partNumber(n), RequestBody.fromInputStream(in, PART)).eTag();
            parts.add(CompletedPart.builder().partNumber(n).eTag(etag).build());
        }
        return client.completeMultipartUpload(
            r -> r.bucket(BUCKET).key("java/large").uploadId(id).multipartUpload(m -> m.parts(parts))).eTag();
    }

    public static void main(String[] args) throws Exception {
        byte[] small = "0123456789".repeat(1000).getBytes();
        byte[] large = new byte[2 * PART];
        for (int i = 0; i < large.length; i++) {
            large[i] = small[i % small.length];
        }
        S3Client client = S3Client.builder()
            .endpointOverride(URI.create(System.getenv("ZOO_URL")))
            .httpClientBuilder(http())
            .forcePathStyle(true)
            .build();
        step("put", () -> client.putObject(r -> r.bucket(BUCKET).key("java/small"), RequestBody.fromBytes(small)).eTag());
        step("put a stream", () -> client.putObject(r -> r.bucket(BUCKET).key("java/stream"),
            RequestBody.fromInputStream(new ByteArrayInputStream(small), small.length)).eTag());
        step("multipart", () -> multipart(client, large));
        step("read", () -> digest(client.getObjectAsBytes(r -> r.bucket(BUCKET).key("java/large")).asByteArray()));
        step("copy", () -> client.copyObject(
            r -> r.sourceBucket(BUCKET).sourceKey("java/small").destinationBucket(BUCKET).destinationKey("java/ü +k")).copyObjectResult().eTag());
        step("list", () -> client.listObjectsV2Paginator(r -> r.bucket(BUCKET).prefix("java/").maxKeys(2)).contents().stream()
            .map(found -> found.key()).reduce((a, b) -> a + " " + b).orElse("failed: nothing listed"));
        step("delete", () -> "" + client.deleteObjects(r -> r.bucket(BUCKET).delete(d -> d.objects(
            ObjectIdentifier.builder().key("java/small").build(), ObjectIdentifier.builder().key("java/large").build()))).deleted().size());
        System.out.println("{" + FOUND + "}");
    }
}
