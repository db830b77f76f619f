<?php
// Writes the cache of the configuration as "php artisan config:cache" does. After that
// Laravel no longer reads .env.

$app = require __DIR__ . '/bootstrap/app.php';
@unlink($app->getCachedConfigPath());
$app->bootstrapWith([
    Illuminate\Foundation\Bootstrap\LoadEnvironmentVariables::class,
    Illuminate\Foundation\Bootstrap\LoadConfiguration::class,
]);
file_put_contents($app->getCachedConfigPath(), '<?php return ' . var_export($app['config']->all(), true) . ';');
