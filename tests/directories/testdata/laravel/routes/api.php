<?php
// A team's routes around what the pages print for Laravel. The test puts the pages' text in
// the place of the lines "BLOCK".

use Firebase\JWT\JWK;
use Firebase\JWT\JWT;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\Http;
use Illuminate\Support\Facades\Route;

// BLOCK users

Route::get('/verified', function (Request $request) {
    // BLOCK tokens
    return ['userId' => $userId];
});

Route::get('/orders', function (Request $request) {
    // BLOCK headers
    return ['userId' => $userId, 'phone' => $phone];
});
