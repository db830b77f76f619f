<?php

// Members are kept in a file, as PHP forgets everything after each request.
class Members
{
    public static function handle(array $e): ?object
    {
        $file = storage_path('members.json');
        $known = file_exists($file) ? json_decode(file_get_contents($file)) : [
            (object) ['id' => 7, 'phone' => '+8613800138000', 'role' => 'admin', 'banned' => false],
            (object) ['id' => 8, 'phone' => '+8613600136000', 'role' => 'member', 'banned' => true],
        ];
        $phone = $e['phone'] ?? null;
        $is = fn ($m) => $phone !== null ? $m->phone === $phone : (string) $m->id === ($e['userId'] ?? '');
        $found = current(array_filter($known, $is)) ?: null;
        if ($e['type'] === 'user.erase') {
            file_put_contents($file, json_encode(array_values(array_filter($known, fn ($m) => !$is($m)))));
            return null;
        }
        if ($found === null && $phone !== null) {
            $found = (object) ['id' => max(array_column($known, 'id')) + 1, 'phone' => $phone, 'role' => 'member', 'banned' => false];
            file_put_contents($file, json_encode([...$known, $found]));
        }
        return $found;
    }
}
