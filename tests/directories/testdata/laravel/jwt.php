<?php

// What the page's verifier calls of firebase/php-jwt, which Debian does not have, for ES256.

namespace Firebase\JWT;

class JWK
{
    public static function parseKeySet(array $set): array
    {
        if (empty($set['keys'])) {
            throw new \UnexpectedValueException('no keys');
        }
        $keys = [];
        foreach ($set['keys'] as $key) {
            if ([$key['kty'], $key['crv'], $key['alg']] !== ['EC', 'P-256', 'ES256']) {
                throw new \DomainException('only ES256 is tried here');
            }
            // SubjectPublicKeyInfo of P-256 (RFC 5480), before an uncompressed point.
            $der = hex2bin('3059301306072a8648ce3d020106082a8648ce3d030107034200') . "\x04" . JWT::base64($key['x']) . JWT::base64($key['y']);
            $pem = "-----BEGIN PUBLIC KEY-----\n" . chunk_split(base64_encode($der), 64, "\n") . "-----END PUBLIC KEY-----\n";
            $keys[$key['kid']] = openssl_pkey_get_public($pem);
        }
        return $keys;
    }
}

class JWT
{
    public static function decode(string $token, array $keys): \stdClass
    {
        $parts = explode('.', $token);
        if (count($parts) !== 3) {
            throw new \UnexpectedValueException('not three parts');
        }
        $header = json_decode(self::base64($parts[0]));
        if (($header->alg ?? '') !== 'ES256' || !isset($keys[$header->kid ?? ''])) {
            throw new \UnexpectedValueException('another algorithm or key');
        }
        $signature = self::base64($parts[2]);
        if (strlen($signature) !== 64) {
            throw new \UnexpectedValueException('no signature');
        }
        $der = '';
        foreach (str_split($signature, 32) as $number) {
            $number = ltrim($number, "\0");
            $number = ($number === '' || ord($number[0]) > 0x7f ? "\0" : '') . $number;
            $der .= "\x02" . chr(strlen($number)) . $number;
        }
        if (openssl_verify("$parts[0].$parts[1]", "\x30" . chr(strlen($der)) . $der, $keys[$header->kid], OPENSSL_ALGO_SHA256) !== 1) {
            throw new \UnexpectedValueException('the signature is wrong');
        }
        $claims = json_decode(self::base64($parts[1]));
        if (($claims->exp ?? 0) <= time()) {
            throw new \UnexpectedValueException('expired');
        }
        return $claims;
    }

    public static function base64(string $text): string
    {
        return base64_decode(strtr($text, '-_', '+/'));
    }
}
