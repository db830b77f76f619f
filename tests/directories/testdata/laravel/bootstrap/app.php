<?php
// A new application's kernel and providers in Laravel 8, in one file. The group api has the
// middleware that Laravel 8 to 10 write there.

use Illuminate\Cache\RateLimiting\Limit;
use Illuminate\Foundation\Application;
use Illuminate\Foundation\Exceptions\Handler;
use Illuminate\Foundation\Http\Kernel;
use Illuminate\Foundation\Support\Providers\RouteServiceProvider;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\RateLimiter;
use Illuminate\Support\Facades\Route;

require_once 'Illuminate/autoload.php';
require_once 'GuzzleHttp/autoload.php';
require_once __DIR__ . '/../jwt.php';
require_once __DIR__ . '/../members.php';

class AppKernel extends Kernel
{
    protected $middleware = [
        Illuminate\Foundation\Http\Middleware\ValidatePostSize::class,
        Illuminate\Foundation\Http\Middleware\TrimStrings::class,
        Illuminate\Foundation\Http\Middleware\ConvertEmptyStringsToNull::class,
    ];
    protected $middlewareGroups = ['api' => ['throttle:api', Illuminate\Routing\Middleware\SubstituteBindings::class]];
    protected $routeMiddleware = ['throttle' => Illuminate\Routing\Middleware\ThrottleRequests::class];
}

class AppRoutes extends RouteServiceProvider
{
    public function boot()
    {
        RateLimiter::for('api', fn (Request $request) => Limit::perMinute(60)->by($request->ip()));
        $this->routes(fn () => Route::prefix('api')->middleware('api')->group(base_path('routes/api.php')));
    }
}

$app = new Application(dirname(__DIR__));
$app->singleton(Illuminate\Contracts\Http\Kernel::class, AppKernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, Handler::class);

return $app;
