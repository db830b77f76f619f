# curl: bash curl.sh <url> <sized|chunked|expect> <bytes>...
url=$1 framing=$2
shift 2
case $framing in
sized) headers=(-H 'Expect:') ;;
chunked) headers=(-H 'Expect:' -H 'Transfer-Encoding: chunked') ;;
expect) headers=(-H 'Expect: 100-continue') ;;
esac
for bytes in "$@"; do
	status=$(head -c "$bytes" /dev/zero |
		curl -sk --http1.1 --data-binary @- -H 'Authorization: Bearer bad' "${headers[@]}" -o /dev/null -w '%{http_code}' "$url")
	echo "$bytes $status"
done
